"""Facades in several event loops, threads and forked processes, and programs that leave without closing them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.commands import up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

ENDS_S = 25.0
START = """
import asyncio, multiprocessing, os, signal, sys, threading, time, gc
from coordinator.container import ContainerManager
from coordinator.registry import HealthChecker, ServiceDiscovery, ServiceRegistry
from coordinator.scheduler import ResourceAllocator, TaskScheduler
from coordinator.worker import Worker

NAME = f"agent-{os.getpid()}"
scheduler = TaskScheduler()
registry = ServiceRegistry()
manager = ContainerManager()
checker = HealthChecker(registry)
discovery = ServiceDiscovery(registry)

async def is_well(service):
    return True

async def use():
    "Something of each facade."
    task_id = await scheduler.submit_task("a")
    assert (await scheduler.get_task(task_id)).task_name == "a"
    service_id = await registry.register_service(NAME, "worker", "localhost", 80)
    assert service_id in [one.service_id for one in await registry.find_services(NAME)]
    assert (await discovery.discover_service(NAME)).service_name == NAME
    assert await manager.list_containers() == []
    await checker.register_custom_health_check(NAME, is_well)
    assert (await checker.check_service(service_id)).ok
    return task_id

def child_of_multiprocessing():
    asyncio.run(use())

def fork(inner):
    "Run *inner* in a forked child; end there as Python ends."
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        inner()
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)

if __name__ == "__main__":
"""

PROGRAMS = {
    "twice": """
asyncio.run(use())
asyncio.run(use())
""",
    "alternating": """
one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
for loop in (one, two, one, two, one):
    loop.run_until_complete(use())
one.close()
two.run_until_complete(use())
two.close()
""",
    "never_closed": """
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
""",
    "checks_of_another_loop": """
async def main():
    await use()
    await asyncio.to_thread(asyncio.run, use())
    await asyncio.to_thread(asyncio.run, checker.close())
    await use()
    await checker.close()
asyncio.run(main())
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
loop.close()
asyncio.run(checker.close())
""",
    "inherited": """
from events.errors import Refused
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
def go_on():
    try:
        loop.run_until_complete(use())
    except Refused as error:
        assert error.reason == "other_loop", error
        assert "asyncio.run" in error.message
        return
    raise AssertionError
assert fork(go_on) == 0
loop.run_until_complete(use())
loop.close()
""",
    "given": """
from events.errors import Refused
async def main():
    given = TaskScheduler(app=await scheduler.opened())
    await given.submit_task("a")
    try:
        await asyncio.to_thread(asyncio.run, given.submit_task("a"))
    except Refused as error:
        assert error.reason == "other_loop", error
        return
    raise AssertionError
asyncio.run(main())
""",
    "daemon_thread": """
async def for_ever():
    while True:
        await use()
threading.Thread(target=lambda: asyncio.run(for_ever()), daemon=True).start()
asyncio.run(use())
""",
    "closed_below_it": """
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
loop.close()
asyncio.run(use())
""",
    "stopped_below_it": """
loop = asyncio.new_event_loop()
loop.create_task(use()).add_done_callback(lambda _: loop.call_later(0.1, loop.stop))
loop.run_forever()
loop.close()
gc.collect()
""",
    "threads": """
def alone():
    for _ in range(3):
        asyncio.run(use())
threads = [threading.Thread(target=alone) for _ in range(4)]
for thread in threads:
    thread.start()
alone()
for thread in threads:
    thread.join()
""",
    "thread_beside_a_loop": """
async def main():
    await use()
    for _ in range(3):
        await asyncio.gather(use(), asyncio.to_thread(asyncio.run, use()))
    await use()
asyncio.run(main())
""",
    "closed_in_another_loop": """
async def main():
    await use()
    await asyncio.to_thread(asyncio.run, scheduler.close())
    await use()
    await scheduler.close()
    await use()
asyncio.run(main())
asyncio.run(scheduler.close())
""",
    "forked_between": """
asyncio.run(use())
assert fork(lambda: asyncio.run(use())) == 0
asyncio.run(use())
""",
    "forked_while_running": """
async def main():
    await use()
    assert fork(lambda: asyncio.run(use())) == 0
    assert fork(lambda: asyncio.run(use())) == 0
    await use()
asyncio.run(main())
""",
    "forked_while_opening": """
async def main():
    opening = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    assert fork(lambda: asyncio.run(use())) == 0
    await opening
asyncio.run(main())
""",
    "forked_in_a_loop_not_closed": """
loop = asyncio.new_event_loop()
loop.run_until_complete(use())
assert fork(lambda: asyncio.run(use())) == 0
loop.run_until_complete(use())
loop.close()
""",
    "fork": """
async def main():
    await use()
    child = multiprocessing.get_context("fork").Process(target=child_of_multiprocessing)
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    await use()
asyncio.run(main())
""",
    "spawn": """
async def main():
    await use()
    child = multiprocessing.get_context("spawn").Process(target=child_of_multiprocessing)
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    await use()
asyncio.run(main())
""",
    "pool": """
asyncio.run(use())
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.apply(child_of_multiprocessing)
    pool.apply(child_of_multiprocessing)
asyncio.run(use())
""",
    "background_left": """
async def main():
    await use()
    keep = asyncio.create_task(scheduler.wait_for_task(await use(), wait_s=60))
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return where a coordinator is that all programs use; each has a name of its own for its services."""
    with up(tmp_path_factory.mktemp("loops") / "home") as started:
        yield started.url


async def run(
    source: str,
    url: str,
    *,
    stdin: bytes | None = None,
    argv: tuple[str, ...] = (),
    folder: Path | None = None,
    send: int = 0,
) -> tuple[int, str, str]:
    """Run a program against the coordinator, or embedded without *url*; return how it ended and what it printed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COORDINATOR_LOG__LEVEL": "error"}
    env |= {"PYTHONFAULTHANDLER": "1"}
    env |= {"COORDINATOR_URL": url} if url else {}
    if folder is not None:
        (folder / "program.py").write_text(source)
        argv = (str(folder / "program.py"),)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "always", *argv, env=env, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(ENDS_S):
            if send:
                assert child.stdout is not None
                await child.stdout.readuntil(b"runs\n")
                await asyncio.sleep(0.5)  # until it waits: an interrupt that comes in a task is an error of that task
                child.send_signal(send)
            out, err = await child.communicate(stdin)
    except TimeoutError:
        child.kill()
        out, err = await child.communicate()
        pytest.fail(f"it did not end: {err.decode()}")
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


def program(name: str) -> str:
    return START + "".join(f"    {line}\n" for line in PROGRAMS[name].strip().splitlines())


@pytest.mark.parametrize("name", PROGRAMS)
async def test_facades_of_a_module_work_wherever_they_are_used(url: str, tmp_path: Path, name: str) -> None:
    """In each loop, thread and child; and the program ends in time, in silence."""
    code, out, err = await run(program(name), url, folder=tmp_path)
    assert code == 0, err
    assert (out, without_own(err)) == ("", "")


# --- leaving ----------------------------------------------------------------------------------------------------------

EXITS = {
    "raises": ("await use(); raise ValueError('of the user')", 1),
    "exits": ("await use(); sys.exit(3)", 3),
    "interrupted": ("await use(); print('runs', flush=True); await scheduler.wait_for_task('x' * 3)", -signal.SIGINT),
    "terminated": ("await use(); print('runs', flush=True); await asyncio.sleep(600)", -signal.SIGTERM),
    "forked_and_exits": ("await use(); child = os.fork(); child or sys.exit(0); await ended(child); await use()", 0),
    "forked_and_returns": (
        "await use(); child = os.fork()\n    if not child: return\n    await ended(child); await use()",
        0,
    ),
    "forked_and_raises": ("await use(); child = os.fork(); child or [][0]; await ended(child, 1); await use()", 0),
    "forked_and_awaits": (
        "await use(); child = os.fork(); child or await_or_exit(); await ended(child); await use()",
        0,
    ),
}
RUNNERS = {
    "run": "asyncio.run(main())",
    "loop": "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
    "closed": """loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
finally:
    loop.close()""",
}
WAIT = """
async def ended(child, code=0):
    "Wait for a child while the loop goes on."
    for _ in range(1500):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == code, status
            return
        await asyncio.sleep(0.01)
    os.kill(child, signal.SIGABRT)  # it prints where it is
    await asyncio.sleep(1.0)
    raise AssertionError("the child does not end")

def await_or_exit():
    import contextlib
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        os._exit(1)
    os._exit(0)
"""


@pytest.mark.parametrize("embedded", [False, True], ids=["remote", "embedded"])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("end", EXITS)
async def test_a_program_that_leaves_without_close_ends_in_silence(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, runner: str, *, embedded: bool
) -> None:
    """However it ends, with the code that Python gives it; what its forks do does not concern what it uses."""
    if runner != "run":
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it covers what the first runner covers
    body, code = EXITS[end]
    source = (
        START.replace('if __name__ == "__main__":', "")
        + f"{WAIT}\nasync def main():\n    {body}\n\n{RUNNERS[runner]}\n"
    )
    source = source.replace("wait_for_task('x' * 3)", "wait_for_task(await use())")
    got, _, err = await run(source, "" if embedded else url, folder=tmp_path, send=-code if code < 0 else 0)
    assert got == code, err
    assert without_own(err) == ""


REPL = b"""
from coordinator.scheduler import TaskScheduler
scheduler = TaskScheduler()
task_id = await scheduler.submit_task("a")
print("found", (await scheduler.get_task(task_id)).task_name)
"""


@pytest.mark.parametrize("embedded", [False, True], ids=["remote", "embedded"])
async def test_the_interactive_loop_of_asyncio_ends(url: str, *, embedded: bool) -> None:
    """`python -m asyncio` never closes its loop; the end of its input ends it."""
    code, out, err = await run("", "" if embedded else url, stdin=REPL, argv=("-m", "asyncio"))
    assert code == 0
    assert "found a" in out
    for bad in ("Traceback", "destroyed", "is closed", "never awaited", "ignored"):
        assert bad not in err, err


def without_own(err: str) -> str:
    """Return what a program printed without what is its own: its traceback, and that it did not close its loop."""
    lines = [one for one in err.splitlines() if "ResourceWarning: unclosed event loop" not in one]
    own = ("ValueError: of the user", "KeyboardInterrupt", "IndexError: list index out of range")
    while any(one.startswith("Traceback") for one in lines):
        begin = next(number for number, one in enumerate(lines) if one.startswith("Traceback"))
        end = next((number for number, one in enumerate(lines) if number > begin and one.startswith(own)), None)
        if end is None:
            break
        del lines[begin : end + 1]
    lines = [
        one for one in lines if one and one != "During handling of the above exception, another exception occurred:"
    ]
    return "\n".join(lines)

"""
The contract of every container runtime: in memory, on processes with or without limits, on Docker, by OCI runtimes.

Each runtime is tested on a machine where tests can make containers end and write.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from coordinator.clock import SystemClock
from coordinator.errors import NotFound, Refused, Unavailable
from coordinator.runtime.docker.runtime import DockerRuntime
from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.oci.bundles import sandbox_id
from coordinator.runtime.oci.runtime import USER, OciRuntime
from coordinator.runtime.process.control_groups import Isolation, groups_of
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.process.table import ProcessTable, PsTable, process_table
from coordinator.runtime.protocol import LOG_START, Launch, Observed, Runtime, RuntimeState, Usage
from events.container import ExitCause
from tests.control_groups import needs_control_groups
from tests.docker_engine import IMAGE, Docker
from tests.launches import BAD_NAMES, BAD_POSITIONS, CLUSTER, HOSTILE_LAUNCHES, launch
from tests.oci_images import IMAGE as OCI_IMAGE
from tests.oci_images import PROGRAMS, make_images, needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Writes the text in "say", ends with the exit code in "end".
OBEDIENT = """
while [ ! -e "$1/end" ]; do
  if [ -e "$1/say" ]; then cat "$1/say"; rm "$1/say"; fi
  sleep 0.01
done
exit "$(cat "$1/end")"
"""
NOBODY = ("nobody", "7.0")
LATE_S = 1.5
"""How late a kill may be on a busy machine."""


class Machine(Protocol):
    """
    Where containers run, and how a test controls them.

    Grants may expire up to `early_s` before their time; `slow_s` is how much longer a start may take than of a process.
    """

    early_s: float
    slow_s: float

    def runtime(self) -> Runtime: ...
    def launch(self, container_id: str, generation: str = "7.0", *, deaf: bool = False) -> Launch: ...
    def say(self, launched: Launch, *lines: str) -> None: ...
    def end(self, launched: Launch, code: int) -> None: ...


class FakeMachine:
    """A machine in memory."""

    early_s = 0.01
    slow_s = 0.0

    def __init__(self) -> None:
        self._fake = FakeRuntime(cluster=CLUSTER, now=lambda: 1_000.0, heard=SystemClock().heard)

    def runtime(self) -> Runtime:
        return self._fake

    def launch(self, container_id: str, generation: str = "7.0", *, deaf: bool = False) -> Launch:
        if deaf:
            self._fake.deaf.add(container_id)
        return launch(container_id, generation=generation)

    def say(self, launched: Launch, *lines: str) -> None:
        self._fake.print(launched.container_id, launched.generation, *lines)

    def end(self, launched: Launch, code: int) -> None:
        self._fake.exit(launched.container_id, launched.generation, code)


class ProcessMachine:
    """This machine; each container has a folder in which a test leaves its instructions."""

    slow_s = 0.0

    def __init__(self, root: Path, table: ProcessTable, isolation: Isolation = "none") -> None:
        self._root = root
        self._table = table
        self._isolation = isolation
        self.early_s = 0.02 if table.kind == "proc" else 1.0

    def runtime(self) -> Runtime:
        return ProcessRuntime(
            self._root / "containers", cluster=CLUSTER, table=self._table, poll_s=0.02, isolation=self._isolation
        )

    def launch(self, container_id: str, generation: str = "7.0", *, deaf: bool = False) -> Launch:
        desk = self._root / f"{container_id}-{generation}"
        desk.mkdir(exist_ok=True)
        script = "trap '' TERM\n" + OBEDIENT if deaf else OBEDIENT
        return launch(container_id, "sh", "-c", script, "sh", str(desk), generation=generation)

    def say(self, launched: Launch, *lines: str) -> None:
        self._put(launched, "say", "".join(f"{line}\n" for line in lines))

    def end(self, launched: Launch, code: int) -> None:
        self._put(launched, "end", str(code))

    def _put(self, launched: Launch, name: str, content: str) -> None:
        desk = self._root / f"{launched.container_id}-{launched.generation}"
        (desk / "draft").write_text(content)
        (desk / "draft").rename(desk / name)


class DockerMachine:
    """A real Docker; a test leaves its instructions in the `/tmp` of the container."""

    early_s = 0.02
    slow_s = 4.0

    def __init__(self, root: Path, docker: Docker) -> None:
        self._root = root
        self._docker = docker

    def runtime(self) -> Runtime:
        return DockerRuntime(self._root / "containers", cluster=CLUSTER, socket=self._docker.socket, pulls="never")

    def launch(self, container_id: str, generation: str = "7.0", *, deaf: bool = False) -> Launch:
        script = "trap '' TERM\n" + OBEDIENT if deaf else OBEDIENT
        made = launch(container_id, "sh", "-c", script, "sh", "/tmp", generation=generation)
        return msgspec.structs.replace(made, image=IMAGE, cpu_millis=1_000)

    def say(self, launched: Launch, *lines: str) -> None:
        self._put(launched, "say", "".join(f"{line}\n" for line in lines))

    def end(self, launched: Launch, code: int) -> None:
        self._put(launched, "end", str(code), check=False)  # it may end before Docker has answered

    def _put(self, launched: Launch, name: str, content: str, *, check: bool = True) -> None:
        write = f"cat > /tmp/draft && mv /tmp/draft /tmp/{name}"
        self._docker.run("exec", "-i", launched.name, "sh", "-c", write, stdin=content.encode(), check=check)


class OciMachine:
    """This machine with an OCI runtime; a test leaves its instructions in the `/tmp` of the container."""

    early_s = 0.02

    def __init__(self, root: Path, program: str) -> None:
        self._root = root / "containers"
        self._images = make_images(root / "images")
        self._program = program
        self.slow_s = 4.0 if program == "runc" else 8.0

    def runtime(self) -> Runtime:
        return OciRuntime(self._root, cluster=CLUSTER, images=self._images, program=self._program)

    def launch(self, container_id: str, generation: str = "7.0", *, deaf: bool = False) -> Launch:
        script = "trap '' TERM\n" + OBEDIENT if deaf else OBEDIENT
        made = launch(container_id, "sh", "-c", script, "sh", "/tmp", generation=generation)
        return msgspec.structs.replace(made, image=OCI_IMAGE, cpu_millis=1_000, memory_bytes=256 * 1024 * 1024)

    def say(self, launched: Launch, *lines: str) -> None:
        self._put(launched, "say", "".join(f"{line}\n" for line in lines))

    def end(self, launched: Launch, code: int) -> None:
        self._put(launched, "end", str(code))

    def _put(self, launched: Launch, name: str, content: str) -> None:
        directory = self._root / launched.name
        if self._program == "runc":
            place = Path("/proc", (directory / "init").read_text(), "root/tmp")
            (place / "draft").write_text(content)
            os.chown(place / "draft", USER, USER)
            (place / "draft").rename(place / name)
            return
        sandbox = sandbox_id(groups_of(CLUSTER, self._root), launched.name)
        write = f"cat > /tmp/draft && mv /tmp/draft /tmp/{name}"
        subprocess.run(
            ("runsc", "--root", directory / "state", "exec", f"--user={USER}:{USER}", sandbox, "sh", "-c", write),
            input=content.encode(),
            capture_output=True,
            check=name != "end",  # it may end before it has answered
            timeout=30,
        )


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "process",
        pytest.param("process-limits", marks=needs_control_groups),
        "process-ps",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("oci", marks=pytest.mark.oci),
        pytest.param("gvisor", marks=pytest.mark.oci),
    ],
)
def kind(request: pytest.FixtureRequest) -> str | Docker:
    """The kind of machine; a daemon must be there before each test takes stock of the processes."""
    if request.param in PROGRAMS:
        needed(request.param)
    if request.param != "docker":
        return str(request.param)
    docker: Docker = request.getfixturevalue("docker")
    return docker


@pytest.fixture
def machine(kind: str | Docker, tmp_path: Path) -> Iterator[Machine]:
    match kind:
        case Docker():
            yield DockerMachine(tmp_path, kind)
            kind.remove_all()
        case "fake":
            yield FakeMachine()
        case "oci" | "gvisor":
            yield OciMachine(tmp_path, PROGRAMS[kind])
        case "process":
            yield ProcessMachine(tmp_path, process_table())
        case "process-limits":
            yield ProcessMachine(tmp_path, process_table(), "limits")
        case _:
            yield ProcessMachine(tmp_path, PsTable())


@pytest.fixture
async def runtime(machine: Machine) -> AsyncIterator[Runtime]:
    async with machine.runtime() as opened:
        yield opened
        for seen in await opened.list():
            await opened.stop(seen.container_id, seen.generation, grace_s=0, force=True)


def key(launched: Launch) -> tuple[str, str]:
    return launched.container_id, launched.generation


async def seen(runtime: Runtime, launched: Launch) -> Observed:
    return next(observed for observed in await runtime.list() if observed.name == launched.name)


async def until_exited(runtime: Runtime, launched: Launch) -> Observed:
    async with asyncio.timeout(30):
        while (observed := await seen(runtime, launched)).state is not RuntimeState.EXITED:
            await runtime.wait_change(1)
    return observed


async def until_logged(runtime: Runtime, launched: Launch, last: str) -> None:
    async with asyncio.timeout(10):
        while (await runtime.logs(*key(launched), 1)) != [last]:  # noqa: ASYNC110 - no runtime tells of new lines
            await asyncio.sleep(0.01)


async def test_what_was_started_is_listed_as_running(machine: Machine, runtime: Runtime) -> None:
    """A started container runs, with the name, id and generation of its launch; `start` and `list` agree."""
    launched = machine.launch("a")
    observed = await runtime.start(launched)
    assert (observed.container_id, observed.generation, observed.name) == ("a", "7.0", "coordination-a-7.0")
    assert (observed.state, observed.exit_code, observed.reason) == (RuntimeState.RUNNING, None, "")
    assert observed.pid
    assert observed.started_at
    assert await runtime.list() == [observed]


async def test_the_list_is_ordered_by_name(machine: Machine, runtime: Runtime) -> None:
    """The list has one order, whatever the order of the starts."""
    for container_id in ("c", "a", "b"):
        await runtime.start(machine.launch(container_id))
    assert [observed.container_id for observed in await runtime.list()] == ["a", "b", "c"]


async def test_a_repeated_start_returns_what_runs(machine: Machine, runtime: Runtime) -> None:
    """Starting twice, sequentially or concurrently, runs one container."""
    launched = machine.launch("a")
    first, second = await asyncio.gather(runtime.start(launched), runtime.start(launched))
    assert first == second == await runtime.start(launched)
    assert len(await runtime.list()) == 1


async def test_a_generation_runs_at_most_once(machine: Machine, runtime: Runtime) -> None:
    """A repeated start of an ended container returns how it ended and runs nothing; the next generation runs."""
    launched = machine.launch("a")
    await runtime.start(launched)
    machine.end(launched, 3)
    ended = await until_exited(runtime, launched)
    assert await runtime.start(launched) == ended
    assert (await runtime.start(machine.launch("a", "8.0"))).state is RuntimeState.RUNNING
    assert [observed.generation for observed in await runtime.list()] == ["7.0", "8.0"]


@pytest.mark.parametrize("code", [0, 1, 3, 126, 255])
async def test_the_exit_code_is_reported(machine: Machine, runtime: Runtime, code: int) -> None:
    """A container that ends by itself is exited, with the code of its command and no pid."""
    launched = machine.launch("a")
    await runtime.start(launched)
    machine.end(launched, code)
    observed = await until_exited(runtime, launched)
    assert (observed.exit_code, observed.reason, observed.pid) == (code, "exited", None)


async def test_stop_ends_a_container_and_keeps_its_record(machine: Machine, runtime: Runtime) -> None:
    """A container that does not handle SIGTERM dies at once, and stays listed; stopping it again changes nothing."""
    launched = machine.launch("a")
    await runtime.start(launched)
    began = time.monotonic()
    await runtime.stop(*key(launched), grace_s=30)
    assert time.monotonic() - began < 10
    observed = await seen(runtime, launched)
    assert (observed.state, observed.exit_code) == (RuntimeState.EXITED, 143)
    assert observed.reason == "killed by signal 15"
    await runtime.stop(*key(launched), grace_s=30)
    await runtime.stop(*key(launched), grace_s=30, force=True)
    assert await seen(runtime, launched) == observed


async def test_what_ignores_sigterm_is_killed_after_the_grace(machine: Machine, runtime: Runtime) -> None:
    """The last step is SIGKILL, not before the grace period is over."""
    launched = machine.launch("a", deaf=True)
    await runtime.start(launched)
    machine.say(launched, "ready")  # by then it ignores SIGTERM
    await until_logged(runtime, launched, "ready")
    began = time.monotonic()
    await runtime.stop(*key(launched), grace_s=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    observed = await seen(runtime, launched)
    assert (observed.exit_code, observed.reason) == (137, "killed by signal 9")


async def test_force_kills_at_once(machine: Machine, runtime: Runtime) -> None:
    """With `force` there is no SIGTERM and no grace period."""
    launched = machine.launch("a", deaf=True)
    await runtime.start(launched)
    began = time.monotonic()
    await runtime.stop(*key(launched), grace_s=30, force=True)
    assert time.monotonic() - began < 5
    observed = await seen(runtime, launched)
    assert (observed.state, observed.exit_code) == (RuntimeState.EXITED, 137)
    assert observed.reason == "killed by signal 9"


async def test_force_overtakes_a_patient_stop(machine: Machine, runtime: Runtime) -> None:
    """While one stop waits for its grace period, another may use force; both return when the container is gone."""
    launched = machine.launch("a", deaf=True)
    await runtime.start(launched)
    machine.say(launched, "ready")
    await until_logged(runtime, launched, "ready")
    patient = asyncio.create_task(runtime.stop(*key(launched), grace_s=1))
    await asyncio.sleep(0.05)
    await runtime.stop(*key(launched), grace_s=30, force=True)
    async with asyncio.timeout(5):
        await patient
    assert (await seen(runtime, launched)).exit_code == 137


async def test_pause_and_resume(machine: Machine, runtime: Runtime) -> None:
    """A paused container is listed as paused until it is resumed; both commands may be repeated."""
    launched = machine.launch("a")
    await runtime.start(launched)
    for _ in range(2):
        await runtime.pause(*key(launched))
        assert (await seen(runtime, launched)).state is RuntimeState.PAUSED
    for _ in range(2):
        await runtime.resume(*key(launched))
        assert (await seen(runtime, launched)).state is RuntimeState.RUNNING
    machine.end(launched, 0)
    assert (await until_exited(runtime, launched)).exit_code == 0


async def test_a_paused_container_can_be_stopped(machine: Machine, runtime: Runtime) -> None:
    """A paused container gets SIGTERM like any other, and ends."""
    launched = machine.launch("a")
    await runtime.start(launched)
    await runtime.pause(*key(launched))
    await runtime.stop(*key(launched), grace_s=30)
    assert (await seen(runtime, launched)).reason == "killed by signal 15"


async def test_what_has_exited_cannot_be_paused_or_resumed(machine: Machine, runtime: Runtime) -> None:
    """Pausing an ended container is refused: nothing could resume it."""
    launched = machine.launch("a")
    await runtime.start(launched)
    await runtime.stop(*key(launched), grace_s=1)
    for verb in (runtime.pause, runtime.resume):
        with pytest.raises(Refused, match="has exited"):
            await verb(*key(launched))


async def test_only_what_has_exited_can_be_removed(machine: Machine, runtime: Runtime) -> None:
    """Removing a running container is refused; a removed one is unknown."""
    launched = machine.launch("a")
    await runtime.start(launched)
    with pytest.raises(Refused, match="stop it first"):
        await runtime.remove(*key(launched))
    await runtime.stop(*key(launched), grace_s=1)
    await runtime.remove(*key(launched))
    assert await runtime.list() == []
    with pytest.raises(NotFound):
        await runtime.remove(*key(launched))


async def test_logs_are_the_last_lines(machine: Machine, runtime: Runtime) -> None:
    """The newest lines are returned, oldest first, and are still there after the exit."""
    launched = machine.launch("a")
    await runtime.start(launched)
    assert await runtime.logs(*key(launched), 10) == []
    machine.say(launched, *(f"line {n}" for n in range(50)), "end")
    await until_logged(runtime, launched, "end")
    assert await runtime.logs(*key(launched), 3) == ["line 48", "line 49", "end"]
    await runtime.stop(*key(launched), grace_s=0)
    assert len(await runtime.logs(*key(launched), 100)) == 51


@pytest.mark.parametrize("lines", [0, -1, 10_001, 1.5, True, None])
async def test_a_number_of_lines_has_limits(runtime: Runtime, lines: int) -> None:
    """No count makes a runtime read without limit."""
    with pytest.raises(Refused, match="lines"):
        await runtime.logs(*NOBODY, lines)


PART: dict[str, Any] = {"lines": 10, "bytes_most": 64 * 1024, "wait_s": 0.0}


async def followed(
    runtime: Runtime, launched: Launch, position: str, count: int, **options: Any
) -> tuple[list[str], str]:
    """Return so many lines after a position, in as many parts as they take, and the position after them."""
    lines: list[str] = []
    async with asyncio.timeout(20):
        while len(lines) < count:
            part = await runtime.logs_after(*key(launched), position, **PART | {"wait_s": 5.0} | options)
            assert not part.is_cut
            lines += part.lines
            position = part.position
    return lines, position


async def test_a_log_is_followed_from_a_position(machine: Machine, runtime: Runtime) -> None:
    """Each line comes once, also in small parts, to a runtime that has been opened again, and up to the end."""
    launched = machine.launch("a")
    await runtime.start(launched)
    part = await runtime.logs_after(*key(launched), "", **PART)
    assert (part.lines, part.is_cut, part.is_end) == ((), False, False)
    first = [f"line {n}" for n in range(50)]
    machine.say(launched, *first)
    lines, position = await followed(runtime, launched, part.position, 50)
    assert lines == first
    assert (await followed(runtime, launched, LOG_START, 50, bytes_most=64))[0] == first
    assert (await runtime.logs_after(*key(launched), "", **PART | {"lines": 3})).lines == tuple(first[-3:])
    machine.say(launched, "", "ä € 🙂", "\x1b[31mred")
    assert (await followed(runtime, launched, position, 3))[0] == ["", "ä € 🙂", "\x1b[31mred"]
    lines, position = await followed(runtime, launched, "", 2, lines=2)
    assert lines == ["ä € 🙂", "\x1b[31mred"]
    waiting = asyncio.create_task(runtime.logs_after(*key(launched), position, **PART | {"wait_s": 20.0}))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    machine.say(launched, "last")
    part = await waiting
    assert part.lines == ("last",)
    machine.end(launched, 0)
    await until_exited(runtime, launched)
    part = await runtime.logs_after(*key(launched), part.position, **PART | {"wait_s": 20.0})
    assert (part.lines, part.is_end) == ((), True)
    whole = await runtime.logs_after(*key(launched), LOG_START, **PART)
    assert (len(whole.lines), whole.lines[-1], whole.is_end) == (54, "last", True)


async def test_a_position_outlives_the_runtime(machine: Machine) -> None:
    """The next one of this machine goes on where the one before it was."""
    launched = machine.launch("a")
    async with machine.runtime() as runtime:
        await runtime.start(launched)
        machine.say(launched, "one", "two")
        position = (await followed(runtime, launched, LOG_START, 2))[1]
    machine.say(launched, "three")
    async with machine.runtime() as again:
        assert (await followed(again, launched, position, 1))[0] == ["three"]
        await again.stop(*key(launched), grace_s=0, force=True)


async def test_a_wait_for_lines_ends(machine: Machine, runtime: Runtime) -> None:
    """Without a line at the time, with the same position; with `NotFound` once it is removed."""
    launched = machine.launch("a")
    await runtime.start(launched)
    machine.say(launched, "one")
    position = (await followed(runtime, launched, LOG_START, 1))[1]
    began = time.monotonic()
    part = await runtime.logs_after(*key(launched), position, **PART | {"wait_s": 0.5})
    assert (part.lines, part.position, part.is_end) == ((), position, False)
    assert time.monotonic() - began > 0.4
    await runtime.stop(*key(launched), grace_s=0, force=True)
    await runtime.remove(*key(launched))
    with pytest.raises(NotFound):
        await runtime.logs_after(*key(launched), position, **PART)


@pytest.mark.parametrize("position", ["x", "-1", "1.0", "9" * 40, "1-2-3"])
async def test_a_position_is_one_of_this_runtime(machine: Machine, runtime: Runtime, position: str) -> None:
    """Anything else is refused before the log is read."""
    launched = machine.launch("a")
    await runtime.start(launched)
    with pytest.raises(Refused, match="position"):
        await runtime.logs_after(*key(launched), position, **PART)


# --- causes -----------------------------------------------------------------------------------------------------------


async def test_an_end_has_a_cause(machine: Machine, runtime: Runtime) -> None:
    """The first one who ends a container gives the cause; an end by itself has its own."""
    stopped, ended, twice = (machine.launch(one, deaf=one == "c") for one in "abc")
    for one in (stopped, ended, twice):
        assert (await runtime.start(one)).cause == ""
    await runtime.stop(*key(stopped), grace_s=1, cause=ExitCause.SUPERSEDED)
    machine.end(ended, 0)
    await until_exited(runtime, ended)
    machine.say(twice, "ready")
    await until_logged(runtime, twice, "ready")
    patient = asyncio.create_task(runtime.stop(*key(twice), grace_s=6))  # the fake waits for all of it
    async with asyncio.timeout(5):
        while not (await seen(runtime, twice)).cause:  # noqa: ASYNC110 - no runtime tells of a stop
            await asyncio.sleep(0.01)
    await runtime.stop(*key(twice), grace_s=0, force=True, cause=ExitCause.CUT_OFF)
    await patient
    await runtime.stop(*key(ended), grace_s=0, cause=ExitCause.CUT_OFF)
    assert [one.cause for one in await runtime.list()] == ["superseded", "exited", "requested"]


# --- the dead man's switch --------------------------------------------------------------------------------------------


def granted(machine: Machine, container_id: str = "a", *, for_s: float = 2.0, deaf: bool = False) -> Launch:
    """Return a launch that is good for so many seconds from now."""
    until = SystemClock().heard() + for_s + machine.slow_s
    return msgspec.structs.replace(machine.launch(container_id, deaf=deaf), until=until)


async def until_cut_off(machine: Machine, runtime: Runtime, launched: Launch, *, until: float) -> None:
    """Wait until a container is killed; it must happen at its time."""
    observed = await until_exited(runtime, launched)
    now = SystemClock().heard()
    assert until - machine.early_s <= now < until + LATE_S + machine.slow_s
    assert (observed.exit_code, observed.reason, observed.cause) == (137, "killed by signal 9", "cut_off")


async def test_what_is_not_granted_any_more_is_killed(machine: Machine, runtime: Runtime) -> None:
    """Even if it ignores SIGTERM; what needs no grant runs on."""
    kept, launched = machine.launch("b"), granted(machine, deaf=True)
    await runtime.start(kept)
    assert (await runtime.start(launched)).state is RuntimeState.RUNNING
    assert launched.until
    await until_cut_off(machine, runtime, launched, until=launched.until)
    assert (await seen(runtime, kept)).state is RuntimeState.RUNNING


async def test_a_grant_lets_everything_run_on(machine: Machine, runtime: Runtime) -> None:
    """The longest one counts, for whatever runs; it needs nobody who is there at the end."""
    launched = granted(machine, for_s=1.5)
    await runtime.start(launched)
    until = SystemClock().heard() + 3.5 + machine.slow_s
    await runtime.grant(until)
    await runtime.grant(until - 2.5)
    await until_cut_off(machine, runtime, launched, until=until)


async def test_what_is_frozen_is_killed_too(machine: Machine, runtime: Runtime) -> None:
    """A paused container that was forgotten would run on when it is resumed."""
    launched = granted(machine)
    await runtime.start(launched)
    await runtime.pause(*key(launched))
    assert launched.until
    await until_cut_off(machine, runtime, launched, until=launched.until)


async def test_a_grace_does_not_outlast_the_grant(machine: Machine, runtime: Runtime) -> None:
    """The stop returns then; the cause is that of the stop, which was first."""
    launched = granted(machine, deaf=True)
    await runtime.start(launched)
    machine.say(launched, "ready")
    await until_logged(runtime, launched, "ready")
    patient = asyncio.create_task(runtime.stop(*key(launched), grace_s=60))
    observed = await until_exited(runtime, launched)
    assert launched.until
    assert SystemClock().heard() < launched.until + LATE_S + machine.slow_s
    assert (observed.exit_code, observed.cause) == (137, "requested")
    patient.cancel()


async def test_a_start_that_comes_too_late_runs_nothing(machine: Machine, runtime: Runtime) -> None:
    """Not even when there is a new grant: the container may have been started elsewhere meanwhile."""
    await runtime.grant(SystemClock().heard() + 60)
    observed = await runtime.start(granted(machine, for_s=-machine.slow_s))
    assert (observed.state, observed.cause) == (RuntimeState.EXITED, "cut_off")


async def test_a_grant_must_be_a_time(machine: Machine, runtime: Runtime) -> None:
    """Anything else is refused, at the start as well."""
    for value in (-1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(Refused, match="until"):
            await runtime.grant(value)  # type: ignore[arg-type]
        with pytest.raises(Refused, match="until"):
            await runtime.start(msgspec.structs.replace(machine.launch("a"), until=value))


async def test_usage_is_of_what_runs(machine: Machine, runtime: Runtime) -> None:
    """A running container is measured; an ended one uses nothing that could be."""
    launched = machine.launch("a")
    await runtime.start(launched)
    usage = await runtime.usage(*key(launched))
    assert isinstance(usage, Usage)
    assert usage.pids >= 1
    assert usage.cpu_seconds >= 0
    await runtime.stop(*key(launched), grace_s=1)
    with pytest.raises(NotFound, match="is not running"):
        await runtime.usage(*key(launched))


async def test_an_exit_wakes_the_waiter_once(machine: Machine, runtime: Runtime) -> None:
    """A start wakes no waiter; an exit does, also when it came before the wait, and only once."""
    launched = machine.launch("a")
    await runtime.start(launched)
    assert not await runtime.wait_change(0.05)
    waiter = asyncio.create_task(runtime.wait_change(10))
    await asyncio.sleep(0)
    machine.end(launched, 0)
    assert await waiter
    assert (await seen(runtime, launched)).state is RuntimeState.EXITED
    assert not await runtime.wait_change(0.05)


async def test_what_nobody_started_is_not_found(runtime: Runtime) -> None:
    """Every command about an unknown container raises NotFound."""
    with pytest.raises(NotFound):
        await runtime.stop(*NOBODY, grace_s=1)
    with pytest.raises(NotFound):
        await runtime.logs(*NOBODY, 1)
    for verb in (runtime.pause, runtime.resume, runtime.remove, runtime.usage):
        with pytest.raises(NotFound, match="nobody"):
            await verb(*NOBODY)


async def test_another_opening_adopts(machine: Machine) -> None:
    """Closing leaves containers running; the next opening sees the same processes, and can stop and remove them."""
    running, ended = machine.launch("a"), machine.launch("b")
    async with machine.runtime() as first:
        before = await first.start(running)
        await first.start(ended)
        machine.end(ended, 5)
        await until_exited(first, ended)
    async with machine.runtime() as second:
        assert await seen(second, running) == before
        assert (await seen(second, ended)).exit_code == 5
        assert await second.start(running) == before
        await second.stop(*key(running), grace_s=30)
        assert (await seen(second, running)).reason == "killed by signal 15"
        await second.remove(*key(running))
        await second.remove(*key(ended))
        assert await second.list() == []


async def test_a_closed_runtime_answers_nothing(machine: Machine) -> None:
    """Before opening and after closing every command raises Unavailable; none returns an empty result."""
    runtime = machine.runtime()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            for attempt in (runtime.list(), runtime.start(machine.launch("a")), runtime.wait_change(0)):
                with pytest.raises(Unavailable, match="not open"):
                    await attempt
            with pytest.raises(Unavailable, match="not open"):
                await runtime.stop(*NOBODY, grace_s=0)
            await stack.enter_async_context(runtime)
            await stack.aclose()


async def test_no_hostile_launch_reaches_a_machine(machine: Machine, runtime: Runtime) -> None:
    """An invalid launch is refused with the container's name, shortly and without secrets; nothing is started."""
    right = machine.launch("a")
    for field, value in HOSTILE_LAUNCHES:
        wrong = msgspec.structs.replace(right, **{field: value})
        with pytest.raises(Refused) as refused:
            await runtime.start(wrong)
        words = {"container_id": "container_id", "name": "name"}.get(field, field)
        assert words in refused.value.message, (field, value)
        assert len(refused.value.message) < 300, (field, value)
        assert "hush" not in refused.value.message, (field, value)
        assert "hush" not in repr(wrong), (field, value)
    assert await runtime.list() == []


async def test_no_hostile_name_reaches_a_machine(runtime: Runtime) -> None:
    """Commands about containers with invalid names are refused before anything is looked up."""
    for container_id in BAD_NAMES:
        with pytest.raises(Refused, match="container_id"):
            await runtime.logs(container_id, "7.0", 1)  # type: ignore[arg-type]
    for generation in BAD_POSITIONS:
        with pytest.raises(Refused, match="generation"):
            await runtime.remove("a", generation)  # type: ignore[arg-type]
    for grace_s in (-1, float("nan"), 4_000):
        with pytest.raises(Refused, match="grace_s"):
            await runtime.stop(*NOBODY, grace_s=grace_s)
    for timeout_s in (-1, float("nan"), float("inf")):
        with pytest.raises(Refused, match="timeout_s"):
            await runtime.wait_change(timeout_s)

"""Outputs that nobody reads, full, closed, of another encoding: commands end as they should, services go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.home import Home
from tests.commands import Up, up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full"),
    pytest.mark.untraced,
]

LIMIT_S = 60.0
CLI = (sys.executable, "-m", "coordinator.cli")

COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "version": ("--version",),
    "task_submit": ("task", "submit", "näme", "--payload", '"ü\u2603"'),
    "task_list": ("task", "list"),
    "events_tail_json": ("events", "tail", "--no-follow", "--json"),
    "auth_init": ("auth", "init", "{new}/auth"),
    "doctor": ("doctor",),
    "unknown_task": ("task", "get", "unknown"),
    "usage": ("task", "list", "--nothing"),
}
"""One of each way to write, and to end."""
ENCODINGS = {
    "C": {"LANG": "C", "LC_ALL": "C", "TERM": ""},
    "ascii": {"PYTHONIOENCODING": "ascii:strict", "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"},
}


class Cluster:
    """A running cluster, and folders for the commands that need some."""

    def __init__(self, running: Up, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self._count = 0

    def argv(self, name: str) -> list[str]:
        self._count += 1
        new = self.folder / f"new-{self._count}"
        new.mkdir()
        return [*CLI, *(word.format(new=new) for word in COMMANDS[name])]

    def env(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join(sys.path)
        return {**os.environ, "PYTHONPATH": path, "COORDINATOR_HOME": str(self.running.home)} | more

    def run(self, name: str, *, redirected: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command, with redirections of a shell."""
        argv = ["sh", "-c", f'exec "$@" {redirected}', "sh", *self.argv(name)]
        return subprocess.run(argv, env=self.env(**more), capture_output=True, timeout=LIMIT_S, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("outputs")
    with up(folder / "home") as running:
        made = Cluster(running, folder)
        for words in (("task", "submit", "näme", "--id", "known", "--payload", '"ü\u2603"'),):
            done = subprocess.run([*CLI, *words], env=made.env(), capture_output=True, timeout=LIMIT_S, check=False)
            assert done.returncode == 0, done.stderr
        yield made


@pytest.fixture(scope="module")
def usual(cluster: Cluster) -> dict[str, subprocess.CompletedProcess[bytes]]:
    """How each command ends when all is well."""
    return {name: cluster.run(name) for name in COMMANDS}


Usual = dict[str, subprocess.CompletedProcess[bytes]]


def is_tame(err: bytes) -> bool:
    return b"Traceback" not in err and b"Exception ignored" not in err and b"internal error" not in err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_output_is_an_error(cluster: Cluster, usual: Usual, name: str) -> None:
    """A command that had something to say ends with 1 and one line that says why; another one as always."""
    done = cluster.run(name, redirected=">/dev/full")
    assert is_tame(done.stderr), done.stderr
    if usual[name].stdout:
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, b"coordinator: No space left on device")
    else:
        assert done.returncode == usual[name].returncode


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_nobody_reads_is_no_error(cluster: Cluster, usual: Usual, name: str) -> None:
    """A reader such as `head` that has ended: 0 and silence."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            cluster.argv(name), env=cluster.env(), stdout=write, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False
        )
    finally:
        os.close(write)
    assert is_tame(done.stderr), done.stderr
    assert done.returncode == (0 if usual[name].stdout else usual[name].returncode)
    assert b"roken pipe" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_stream_is_as_one_to_the_null_device(cluster: Cluster, usual: Usual, name: str, closed: str) -> None:
    """The command does its work, says what it can, and ends with the code it always has."""
    done = cluster.run(name, redirected=closed)
    assert is_tame(done.stderr), done.stderr
    assert done.returncode == usual[name].returncode


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&1 >/dev/null | :"])
@pytest.mark.parametrize("name", COMMANDS)
def test_errors_that_nobody_reads_do_not_change_the_code(cluster: Cluster, usual: Usual, name: str, where: str) -> None:
    """Standard error full, or its reader gone: the code is that of the command."""
    if where.endswith("| :"):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            cluster.argv(name), env=cluster.env(), stdout=subprocess.PIPE, stderr=write, timeout=LIMIT_S, check=False
        )
        os.close(write)
    else:
        done = cluster.run(name, redirected=where)
    assert done.returncode == usual[name].returncode
    assert bool(done.stdout) == bool(usual[name].stdout)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", COMMANDS)
def test_another_encoding_changes_no_code(cluster: Cluster, usual: Usual, name: str, encoding: str) -> None:
    """What it cannot show is escaped; warnings as errors are no errors of ours."""
    done = cluster.run(name, **ENCODINGS[encoding])
    assert is_tame(done.stderr), done.stderr
    assert done.returncode == usual[name].returncode
    assert bool(done.stdout) == bool(usual[name].stdout)


@pytest.mark.parametrize("words", [(b"n\xe4me",), (b"a", b"--payload", b'"\xe4"'), (b"a", b"--type", b"t\xe4")])
def test_an_argument_that_is_not_text_is_refused_by_name(cluster: Cluster, words: tuple[bytes, ...]) -> None:
    """Bytes that are not UTF-8 are no defect of ours."""
    argv = [*map(os.fsencode, CLI), b"task", b"submit", *words]
    done = subprocess.run(argv, env=cluster.env(), capture_output=True, timeout=LIMIT_S, check=False)
    assert (done.returncode in {2, 5}, done.stdout) == (True, b""), done.stderr
    assert is_tame(done.stderr), done.stderr
    assert b"e4" in done.stderr


# --- services ---------------------------------------------------------------------------------------------------------


@contextmanager
def output(kind: str) -> Iterator[tuple[int, str]]:
    """A descriptor for both outputs of a service, and redirections of a shell."""
    read, write = os.pipe()
    try:
        if kind == "full":
            os.close(write)
            write = os.open("/dev/full", os.O_WRONLY)
        elif kind == "unread":
            os.close(read)
            read = -1
        elif kind == "stuck":
            os.set_blocking(write, False)
            for size in (65536, 1):
                while True:
                    try:
                        os.write(write, b"x" * size)
                    except BlockingIOError:
                        break
            os.set_blocking(write, True)
        yield write, "<&- >&- 2>&-" if kind == "closed" else ""
    finally:
        os.close(write)
        if read >= 0:
            os.close(read)


@contextmanager
def service(cluster: Cluster, kind: str, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with output(kind) as (sink, shell):
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {shell}', "sh", *words],
            env=cluster.env(COORDINATOR_LOG__LEVEL="debug", **env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def until(seen: object, process: subprocess.Popen[bytes], what: str) -> None:
    assert callable(seen)
    give_up_at = time.monotonic() + LIMIT_S
    while not seen():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


def ask(env: dict[str, str], *words: str) -> str:
    done = subprocess.run([*CLI, *words], env=env, capture_output=True, timeout=LIMIT_S, check=False, text=True)
    return done.stdout if done.returncode == 0 else ""


def told(cluster: Cluster) -> str:
    """Return the last events."""
    return ask(cluster.env(), "events", "tail", "--no-follow", "--last", "50", "--json")


@pytest.mark.parametrize("kind", ["full", "unread", "stuck", "closed"])
def test_up_goes_on(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    """All its processes: a task is submitted and read back from the follower, and SIGTERM ends it with 0."""
    home = tmp_path / "home"
    env = {**cluster.env(), "COORDINATOR_HOME": str(home)}
    with service(cluster, kind, *CLI, "up", "--port", "0", COORDINATOR_HOME=str(home)) as process:
        until(lambda: Home(home).read_running() is not None, process, "it is not up")
        assert ask(env, "task", "submit", "a", "--id", "one").strip() == "one"
        assert "one" in ask(env, "events", "tail", "--no-follow", "--json")
        assert ask(env, "verify")


@pytest.mark.parametrize("kind", ["stuck", "closed"])
@pytest.mark.parametrize("role", ["serve", "follow", "node", "worker", "agent"])
def test_a_service_goes_on(cluster: Cluster, tmp_path: Path, role: str, kind: str) -> None:
    """It does its work until SIGTERM ends it with 0."""
    url = cluster.running.url
    (tmp_path / "handlers.py").write_text(
        "import sys\nfrom coordinator.worker import task\n"
        f"@task('{role}-{kind}')\ndef handle(payload):\n    print('x' * 100, file=sys.stderr)\n    return 1\n"
    )
    (tmp_path / "home").mkdir()
    env = {"COORDINATOR_HOME": str(tmp_path / "home"), "COORDINATOR_URL": url}
    words: tuple[str, ...] = {
        "serve": (*CLI, "serve"),
        "follow": (*CLI, "follow"),
        "node": (*CLI, "node", "run", "--id", f"n-{kind}"),
        "worker": (*CLI, "worker", "run", str(tmp_path / "handlers.py")),
        "agent": (sys.executable, "-m", "coordinator.agent"),
    }[role]
    if role == "agent":
        env |= {
            "COORDINATOR_CONTAINER_ID": f"c-{kind}",
            "COORDINATOR_AGENT_TYPE": "task_agent",
            "COORDINATOR_NODE_ID": "n",
            "COORDINATOR_HANDLERS": str(tmp_path / "handlers.py"),
        }
    with service(cluster, kind, *words, **env) as process:
        if role == "worker":
            wait = ("task", "submit", f"{role}-{kind}", "--wait", "30", "--json")
            assert '"completed"' in ask(cluster.env(), *wait)
        elif role == "node":
            until(lambda: f"n-{kind}" in told(cluster), process, "it did not register")
        elif role == "agent":
            until(lambda: f"c-{kind}" in told(cluster), process, "it did not register")
        else:
            until(lambda: any((tmp_path / "home").iterdir()), process, "it has no state")
            time.sleep(2.0)

"""
Ties child processes to their parent by a pipe, so that no child outlives its parent, however the parent ends.

The parent keeps the write end and never writes. The child holds the read end, and reads end-of-file as soon as the
parent has ended, `kill -9` included. (Linux' parent-death signal is not enough: it is sent when the *thread* that
forked ends, it can be missed before it is set, and macOS has none.) Two kinds of children:

- our own Python processes, started by `spawn`, await `watch_parent` and stop when it returns;
- foreign programs, started by `spawn_foreign`, run under a watcher: this file, `python guard.py -- PROGRAM …`. It
  stops the program when the parent has ended. If the watcher itself is killed the program ends too: on Linux by the
  parent-death signal, everywhere because `Child.wait` ends the rest of the child's process group.

Only light parts of the standard library may be imported at the top, and asyncio only inside functions: a watcher is
started before every server, and importing asyncio would make its start take 70 ms instead of 12 ms.

A process that our program forks, as `multiprocessing` does, must hold nothing that others take as a sign of this
process: the write end of a pipe, a connection. `withhold` takes them from it.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # as type checkers know it; importing `typing` would cost each watcher milliseconds
if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import IO, NoReturn, Protocol, Self

    class Holder(Protocol):
        """Has descriptors that processes forked from this one must not have."""

        def descriptors(self) -> Collection[int]:
            """Return those that are open now."""
            ...


PARENT_FD = "COORDINATOR_PARENT_FD"
"""The environment variable with the number of the child's read end."""

_GRACE_S = 5.0
_WATCHER_MARGIN_S = 1.0
_POLL_S = 0.02
_LINUX_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_claimed: list[int] = []
_withheld: list[Callable[[], Holder | None]] = []
"""Weak references to those that hold descriptors; a WeakSet would import more than a watcher needs."""


def withhold(holder: Holder) -> None:
    """
    Replace the descriptors of *holder* by the null device in each process that is forked from this one.

    Programs that are executed do not inherit them anyway. The numbers stay taken there, so that closing them is safe.
    """
    import weakref

    _withheld.append(weakref.ref(holder, _withheld.remove))


def _after_fork_in_child() -> None:
    holders = [holder for reference in _withheld if (holder := reference()) is not None]
    _withheld.clear()
    if not holders:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for holder in holders:
        for fd in holder.descriptors():
            os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_after_fork_in_child)


class Child:
    """
    A process of ours, leader of its own session and process group; made by `spawn` and `spawn_foreign`.

    As a context manager it terminates the process at the end of the block.
    """

    def __init__(self, process: Process, write_end: int, grace_s: float) -> None:
        import asyncio

        self._process = process
        self._write_end: int | None = write_end
        self._grace_s = grace_s
        self._sweeping = asyncio.Lock()
        self._swept = False
        self._owner = os.getpid()
        withhold(self)  # else the child would not notice our death while a fork of us lives

    @property
    def pid(self) -> int:
        """The process id, which is the id of the process group as well."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while the process runs; then as `wait` returns it."""
        return self._process.returncode

    def descriptors(self) -> Collection[int]:
        """Return the write end, while it is open."""
        return () if self._write_end is None else (self._write_end,)

    async def wait(self) -> int:
        """
        Wait, without limit, until the process has ended and nothing is left of its group; return its exit code.

        A signal counts as its negative number; under a watcher as 128 + the number, as in a shell.
        """
        code = await self._process.wait()
        async with self._sweeping:
            if not self._swept:
                await self._sweep()
                self._swept = True
        self._let_go()
        return code

    async def terminate(self, grace_s: float | None = None) -> int:
        """Ask the process to stop, kill its group after *grace_s* seconds or when cancelled; return the exit code."""
        import asyncio

        if self.returncode is None and self._owner == os.getpid():  # a fork of us must not end it
            with suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(self._grace_s if grace_s is None else grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
        except BaseException:
            self.kill()
            raise
        return await self.wait()

    def kill(self) -> None:
        """Kill the whole process group at once; `wait` afterwards."""
        if self.returncode is None and self._owner == os.getpid():
            _signal_group(self.pid, signal.SIGKILL)
        self._let_go()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.terminate()

    async def _sweep(self) -> None:
        """End the processes left in the group: by SIGTERM, then by SIGKILL."""
        import asyncio

        for number in (signal.SIGTERM, signal.SIGKILL):
            give_up_at = time.monotonic() + self._grace_s
            alive = _signal_group(self.pid, number)
            while alive and time.monotonic() < give_up_at:
                await asyncio.sleep(_POLL_S)
                alive = _group_runs(self.pid)
            if not alive:
                return

    def _let_go(self) -> None:
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    grace_s: float = _GRACE_S,
) -> Child:
    """
    Start one of our own programs, which must await `watch_parent`.

    It inherits the read end, the standard streams (its input is empty) and *pass_fds*, nothing else. *grace_s* is how
    long `Child.terminate` waits. Raises `OSError` if the program cannot be started.
    """
    import asyncio

    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**(os.environ if env is None else env), PARENT_FD: str(read_end)},
            pass_fds=(read_end, *pass_fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Child(process, write_end, grace_s)


async def spawn_foreign(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    grace_s: float = _GRACE_S,
    umask: int = -1,
) -> Child:
    """
    Start a foreign program under a watcher; the program inherits *pass_fds*, and this process's umask by default.

    It is sent SIGTERM when this process dies or calls `Child.terminate`, and SIGKILL *grace_s* seconds later. A program
    that cannot be started ends with code 127 and one line on *stderr*.
    """
    # The watcher sets the umask: not every event loop can do it.
    watcher = [sys.executable, "-ISE", __file__, "--grace-s", str(grace_s), "--umask", str(umask), "--", *argv]
    patience_s = grace_s + _WATCHER_MARGIN_S
    return await spawn(watcher, env=env, pass_fds=pass_fds, stdout=stdout, stderr=stderr, grace_s=patience_s)


async def watch_parent() -> None:
    """
    Return when the parent has died; wait for ever in a process that `spawn` did not start.

    Call it before starting other programs: the first call removes the pipe from the environment, so that they do not
    use it as theirs. Several tasks may await it at once.

    Raises:
        ValueError: $COORDINATOR_PARENT_FD is set and does not name an open pipe.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    held = _claim_pipe()
    if held is None:
        await gone
        return
    # A copy for each caller, because a loop keeps only one reader per descriptor.
    fd = os.dup(held)

    def noticed() -> None:
        if not os.read(fd, 1) and not gone.done():
            gone.set_result(None)

    loop.add_reader(fd, noticed)
    try:
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _claim_pipe() -> int | None:
    """Remove the read end from the environment, once, and return it; None if no parent passed one."""
    given = os.environ.pop(PARENT_FD, None)
    if given is not None:
        if not _is_pipe(given):
            message = f"{PARENT_FD} {given!r} is not an open pipe; leave it unset when starting by hand"
            raise ValueError(message)
        os.set_inheritable(int(given), False)
        _claimed[:] = [int(given)]
    return _claimed[0] if _claimed else None


def _is_pipe(fd: str) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(int(fd)).st_mode)
    except (ValueError, OSError):
        return False


def _signal_group(group: int, number: int) -> bool:
    """Signal the process group; return False if no process is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS raises this for a group in which only dead processes are left.
        return False
    return True


def _group_runs(group: int) -> bool:
    """Return whether a process of the group runs; dead ones do not count, because init may never reap them."""
    if not _signal_group(group, 0):
        return False
    if sys.platform != "linux":
        return True
    from pathlib import Path

    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat_file.read_bytes().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state not in {b"Z", b"X"}:
            return True
    return False


# ---- The watcher: one thread, no asyncio; leader of the group in which the program runs.


def main(argv: Sequence[str]) -> int:
    """Run the program named after `--` until it ends or the parent has ended; return its exit code."""
    if "--" not in argv[:-1]:
        sys.stderr.write(
            "usage: python -m coordinator.guard [--grace-s SECONDS] [--umask MASK] -- PROGRAM [ARGUMENT …]\n"
        )
        return 2
    options, command = list(argv[: argv.index("--")]), list(argv[argv.index("--") + 1 :])
    parent = _claim_pipe()
    if parent is None:
        sys.stderr.write(f"{PARENT_FD} is not set; it must name the read end of a pipe that the parent holds open\n")
        return 2
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    given = dict(zip(options[::2], options[1::2], strict=True))
    grace_s, umask = float(given.get("--grace-s", _GRACE_S)), int(given.get("--umask", -1))
    if umask >= 0:
        os.umask(umask)
    return _watch(parent, command, grace_s)


def _watch(parent: int, command: list[str], grace_s: float) -> int:
    noted = _note_signals()
    pid = _start(command)
    kill_at: float | None = None
    orphaned = False
    # poll, not select: the parent may have more files open than select can count.
    news = select.poll()
    news.register(noted, select.POLLIN)
    news.register(parent, select.POLLIN)
    while (code := _exit_code(pid)) is None:
        patience_ms = None if kill_at is None else max(0.0, kill_at - time.monotonic()) * 1000
        ready = {fd for fd, _ in news.poll(patience_ms)}
        if parent in ready:
            orphaned = True
            news.unregister(parent)
        numbers = os.read(noted, 64) if noted in ready else b""
        if kill_at is None and (orphaned or any(number in _STOP_SIGNALS for number in numbers)):
            # To the whole group except this process; one request to stop sends the signal once.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.kill(0, signal.SIGTERM)
            kill_at = time.monotonic() + grace_s
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(0, signal.SIGKILL)
    if orphaned:
        # No parent is left that would sweep the group.
        os.kill(0, signal.SIGKILL)
    return code


def _note_signals() -> int:
    """Make the signals handled here wake a pipe, and return its read end."""
    noted, notes = os.pipe()
    os.set_blocking(noted, False)
    os.set_blocking(notes, False)
    signal.set_wakeup_fd(notes, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    return noted


def _start(command: list[str]) -> int:
    set_death_signal = _death_signal_setter()
    watcher = os.getpid()
    # Blocked until the program's own dispositions are set: a signal before that must end it, not reach our handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _become(command, watcher, set_death_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    return pid


def _become(command: list[str], watcher: int, set_death_signal: Callable[[], None]) -> NoReturn:
    """Turn this freshly forked process into the program."""
    try:
        set_death_signal()
        if os.getppid() == watcher:
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, *_STOP_SIGNALS):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot start {command[0]!r}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _death_signal_setter() -> Callable[[], None]:
    """Return a function that requests SIGTERM at the watcher's death on Linux; it does nothing where not possible."""
    if sys.platform != "linux":
        return lambda: None
    try:
        import ctypes
    except ImportError:
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_LINUX_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _exit_code(pid: int) -> int | None:
    """Reap the program if it has ended; a signal counts as 128 + its number."""
    reaped, status = os.waitpid(pid, os.WNOHANG)
    if not reaped:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""
As process 1, which a program in a container without an init is, this process becomes one: the program runs in a child.

Process 1 inherits every process whose parent has ended, and must reap it; the kernel gives it no signal that it
does not handle. So it does nothing but pass signals on to the program, reap, and exit as the program does.
"""

from __future__ import annotations

import os
import signal

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_PROCESS = 0
"""The highest `si_code` of a signal that a process sent. For Ctrl-C it is higher: the program has received it too."""


def fork_if_first() -> None:
    """Return in the process that is to run the program; as process 1 that is a child. Call it before threads start."""
    if os.getpid() != 1 or not hasattr(signal, "sigwaitinfo"):
        return
    heard = {*_PASSED_ON, signal.SIGCHLD}
    # Blocked: a signal that comes before the child runs waits for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    program = os.fork()
    if program == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        received = signal.sigwaitinfo(heard)
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= _FROM_PROCESS:
                os.kill(program, received.si_signo)
            continue
        code = _reap(program)
        if code is not None:
            os._exit(code)


def _reap(program: int) -> int | None:
    """Reap all children that have ended; return the exit code of the program if it is one of them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == program:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended

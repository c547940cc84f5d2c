"""
Event loops in forked processes: what is ours there must not run a second time.

A forked child has a copy of every task, timer and ready callback of the loop it was forked in, and shares its selector
with the parent. If that loop went on in the child, our tasks would use the parent's connections and end its processes.
So nothing that was there before the fork runs in that loop in the child. A new loop, as of `asyncio.run`, is not
concerned.
"""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from coordinator.task_groups import leave_behind

if TYPE_CHECKING:
    from collections.abc import Callable

_protected: WeakKeyDictionary[asyncio.AbstractEventLoop, Callable[[], object] | None] = WeakKeyDictionary()
_inherited: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


_forks = 0


def depth() -> int:
    """Return how many forks made this process since ours was started; unlike `os.getpid`, it asks nobody."""
    return _forks


def protect(loop: asyncio.AbstractEventLoop, then: Callable[[], object] | None = None) -> None:
    """Let nothing that *loop* has to run at a fork run in the child; if the loop goes on there, it calls *then*."""
    _protected[loop] = then or _protected.get(loop)


def was_inherited(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether *loop* was protected in a process that this one was forked from."""
    return loop in _inherited


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603  # it is of the process
    _forks += 1
    loops = list(_protected.items())
    _protected.clear()
    for loop, then in loops:
        _inherited.add(loop)
        inner: Any = loop  # what another implementation of the loop does not have is left alone
        ready = getattr(inner, "_ready", None)
        for handle in list(chain(ready or (), getattr(inner, "_scheduled", ()))):
            handle.cancel()
        for task in asyncio.all_tasks(loop):
            leave_behind(None, task)
        getattr(inner, "_asyncgens", set()).clear()  # the end of the loop would close them: many of ours are contexts
        with suppress(AttributeError, ValueError, OSError):
            _separate(inner)
        if ready is not None and then is not None:
            ready.appendleft(asyncio.Handle(then, (), loop))


def _separate(loop: Any) -> None:
    """Give the loop a selector and a pipe to wake it of its own: parent and child share those of the fork on Linux."""
    if hasattr(select, "epoll"):
        with select.epoll() as empty:
            os.dup2(empty.fileno(), loop._selector.fileno(), inheritable=False)  # noqa: SLF001  # has no public name
    loop._close_self_pipe()  # noqa: SLF001  # as above
    loop._make_self_pipe()  # noqa: SLF001  # as above


os.register_at_fork(after_in_child=_after_fork_in_child)

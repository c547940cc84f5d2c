"""Whether a KeyboardInterrupt is a signal to this process, or an error that code has raised."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.stop_signals import is_from_signal, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable


def interrupted() -> KeyboardInterrupt:
    """Receive SIGINT and return what it raises, as a handler of a task would see it."""
    try:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        return error
    raise AssertionError


def raised() -> KeyboardInterrupt:
    """Raise a KeyboardInterrupt like any other error."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        return error


async def main(told: list[bool]) -> None:
    told += [is_from_signal(interrupted()), is_from_signal(raised())]


def under_pythons_own() -> list[bool]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return [is_from_signal(interrupted()), is_from_signal(raised())]


def under_asyncio() -> list[bool]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    told: list[bool] = []
    with suppress(KeyboardInterrupt):
        asyncio.run(main(told))
    return told


def under_ours() -> list[bool]:
    told: list[bool] = []

    async def stoppable() -> None:
        async with stop_on_signals(lambda _: None, lambda: None):
            await main(told)

    asyncio.run(stoppable())
    return told


@pytest.mark.parametrize("told", [under_pythons_own, under_asyncio, under_ours])
def test_an_interrupt_of_the_operator_is_known(told: Callable[[], list[bool]]) -> None:
    """Under each handler of SIGINT that a worker may run with."""
    before: Any = signal.getsignal(signal.SIGINT)
    try:
        assert told() == [True, False]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_errors_are_no_signals() -> None:
    """Only SIGINT raises, and only this error; one that was never raised came from nowhere."""
    assert not is_from_signal(SystemExit(2))
    assert not is_from_signal(KeyboardInterrupt())

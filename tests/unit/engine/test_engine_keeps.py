"""What is refused leaves nothing behind in the writer, however large it was."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands import COMMANDS
from coordinator.commands.caller import Caller
from coordinator.commands.queue import DefineQueue
from coordinator.commands.task import ClaimTasks, CompleteTask, GetTask, ListTasks, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.errors import CoordinationError, NotFound
from events.task import Gang
from tests.hostile import VALID
from tests.unit.deciders.facts import resources
from tests.unit.engine.engine_rig import leading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Command

LONG = 100_000
OURS = ("coordinator.", "events.", "projections.")
MESSAGE_CHARS_MOST = 2000
_KEY = "<key>"
Path = tuple[str | int, ...]


def shapes(kind: type[Command]) -> Iterator[dict[str, Any]]:
    """Yield the fields of a command with text, once only those it needs, and once all: some guard others."""
    for fields in ([one for one in msgspec.structs.fields(kind) if one.required], msgspec.structs.fields(kind)):
        texts = {one.name: "x" for one in fields if one.type is str}
        lists = {one.name: ["x"] for one in fields if one.type == tuple[str, ...]}
        yield texts | lists | VALID.get(kind_name(kind), {})


def kind_name(kind: type[Command]) -> str:
    return next(name for name, command in COMMANDS.items() if command is kind)


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield where *value* has a text, or could have a name."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*at, name))
        if at:
            yield (*at, _KEY)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*at, index))


def with_text(fields: dict[str, Any], at: Path, text: str) -> dict[str, Any]:
    changed = inner = deepcopy(fields)
    for step in at[:-1]:
        inner = inner[step]  # type: ignore[index]  # a list has numbers
    inner[text if at[-1] == _KEY else at[-1]] = text  # type: ignore[index]  # as above
    return changed


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=lambda kind: kind.__name__)
async def test_no_text_of_a_refused_command_is_kept(kind: type[Command]) -> None:
    """Not as a key of signs, claims or refusals, and not in a message: wherever in the command it is."""
    async with leading() as rig:
        for fields in shapes(kind):
            for at in places(fields):
                text = "x" * LONG + "y"
                before = sys.getrefcount(text)
                try:
                    command = msgspec.convert(with_text(fields, at, text), kind)
                except msgspec.ValidationError:
                    continue
                told = rig.ask(command)
                said = ""
                try:
                    await told.outcome()
                except CoordinationError as error:
                    said = str(error)
                assert len(said) < MESSAGE_CHARS_MOST, at
                del told, command
                rig.asked.clear()
                await rig.settle()
                if sys.getrefcount(text) != before:
                    gc.collect()
                assert sys.getrefcount(text) == before, f"the text of {at} is kept"


@contextmanager
def collecting() -> Iterator[Counter[str]]:
    """Yield what is only there at the end of the block because it is in a cycle, by type."""
    left = Counter[str]()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield left
        gc.collect()
        left.update(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_a_refused_call_in_this_process_leaves_nothing_to_the_garbage_collector() -> None:
    """Its error has a traceback, whose frames would refer to it."""
    async with leading() as rig:
        with collecting() as left:
            for number in range(9):
                with suppress(NotFound):
                    await rig.engine.execute(GetTask(task_id=f"t{number}"), Caller(actor="tester"))
        assert {name: count for name, count in left.items() if count > 3} == {}


@pytest.mark.parametrize("strategy", ["", "priority", "round_robin", "weighted_round_robin", "least_loaded"])
async def test_a_turn_leaves_nothing_to_the_garbage_collector(strategy: str) -> None:
    """Objects in a cycle wait for it until there are 50,000: it then stops the writer for 30 ms."""
    gang = Gang(gang_id="g", size=2)
    async with leading() as rig:
        await rig.order(RegisterWorker(worker_id="w", slots=9, resources=resources(cpu=8000)))
        await rig.order(DefineQueue(queue_id="q", weight=2.0))
        with collecting() as left:
            claiming = rig.ask(ClaimTasks(claim_id="c", worker_id="w", slots=9, wait_s=60.0, strategy=strategy))
            for number in range(2):
                await rig.order(SubmitTask(task_id=f"g{number}", task_name="n", gang=gang))
            for number in range(3):
                await rig.order(
                    SubmitTask(task_id=f"t{number}", task_name="n", resources=resources(cpu=1000), queue="q")
                )
            started = await claiming.outcome()
            started += await rig.order(ClaimTasks(claim_id="d", worker_id="w", slots=9, strategy=strategy))
            assert {task.task_id for task in started} == {"g0", "g1", "t0", "t1", "t2"}
            for task in started:
                await rig.order(CompleteTask(task_id=task.task_id, lease=task.lease, worker_id="w"))
            await rig.order(ListTasks())
            del claiming, started, task
        assert {name: count for name, count in left.items() if name.startswith(OURS)} == {}

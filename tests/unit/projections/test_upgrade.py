"""Snapshots of older folds become worlds of this one, and lack only what they name."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.errors import Corrupt
from events.task import TaskSubmitted
from projections.memory import HARD_S, KEY
from projections.task import KeyedTask, checksum
from projections.upgrade import FOLD_VERSION, READABLE, decoded
from projections.world import World
from tests.specification import Scribe, said

WITNESSES = Path(__file__).parents[2] / "golden" / "release-1" / "witnesses.tar.xz"


@cache
def of_release_1() -> dict[str, Any]:
    """The last snapshot that release 1 wrote, as plain values."""
    import zlib

    with tarfile.open(WITNESSES) as tar:
        (name,) = [one for one in tar.getnames() if Path(one).name.startswith("snapshot-") and "archive" in one]
        packed = tar.extractfile(name)
        assert packed is not None
        value: dict[str, Any] = msgspec.msgpack.decode(zlib.decompress(packed.read()))
    return value


def test_a_snapshot_of_release_1_is_converted() -> None:
    """Everything in it is still there; the memory knows its commands and keys, and since when it is complete."""
    value = of_release_1()
    assert value["fold_version"] == 4
    world = World.restore(msgspec.msgpack.encode(value))
    assert world.position == tuple(value["position"])
    assert {"tasks": len(world.tasks), "containers": len(world.containers), "workers": len(world.workers)} == {
        name: len(value[name]) for name in ("tasks", "containers", "workers")
    }
    assert world.memory.count == len(value["remembered"]) + len(value["keyed"])
    assert value["keyed"]
    for name in value["remembered"]:
        actor, _, commandid = name.partition("/")
        assert world.outcome_of(actor, commandid) == b"-"
    for name, keyed in value["keyed"].items():
        tenant, _, key = name.partition("/")
        assert world.memory.find(KEY, key, tenant) is not None
        assert world.keyed_task(tenant, key) == KeyedTask(keyed["task_id"], checksum(keyed["payload_digest"]))
    assert world.remembers_since == value["time"]
    assert World.restore(world.snapshot()).snapshot() == world.snapshot()


def test_the_memory_is_complete_when_all_that_it_lacks_would_have_been_dropped() -> None:
    """After ten minutes of commit time nothing is missing any more."""
    value = of_release_1()
    scribe = Scribe(World.restore(msgspec.msgpack.encode(value)))
    for later_s, since in ((HARD_S, value["time"]), (HARD_S + 1, 0.0)):
        scribe.commit(said(TaskSubmitted(task_id=f"t{since}", task_name="n"), at=value["time"] + later_s))
        assert scribe.world.remembers_since == since


def test_old_commands_are_not_taken_over() -> None:
    """What would have been dropped by now is dropped at once."""
    value = {**of_release_1()}
    value["remembered"] = {"a/old": value["time"] - 2 * HARD_S, "a/new": value["time"] - 1}
    world = World.restore(msgspec.msgpack.encode(value))
    assert (world.outcome_of("a", "old"), world.outcome_of("a", "new")) == (None, b"-")


@pytest.mark.parametrize("version", [0, 1, 3, FOLD_VERSION + 1, 2**40])
def test_a_version_that_cannot_be_converted_is_told(version: int) -> None:
    """With both numbers."""
    data = msgspec.msgpack.encode({**of_release_1(), "fold_version": version})
    with pytest.raises(Corrupt, match=f"folded by version {version}, this is version {FOLD_VERSION}: rebuild it"):
        decoded(data)
    assert version not in READABLE


@pytest.mark.parametrize(
    "change",
    [
        {"remembered": 7}, {"remembered": {"a": "x"}}, {"keyed": {"a/b": {}}}, {"time": "now"},
        {"keyed": {"a/b": {"task_id": 3, "at": 1.0}}}, {"tasks": {}},
    ],
    ids=str,
)  # fmt: skip
def test_damage_in_an_old_snapshot_is_corrupt(change: dict[str, object]) -> None:
    """Never another exception."""
    with pytest.raises(Corrupt, match="unreadable"):
        World.restore(msgspec.msgpack.encode({**of_release_1(), **change}))

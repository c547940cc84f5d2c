"""How the journal's reader interprets stream info; reading is tested against real servers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.pull_consumer import PullLimits
from coordinator.journal.reader import STALE_LEADER_S, JournalReader
from events.subjects import Subjects
from projections.source import Bounds, Record


class Told:
    """A stream with the given info."""

    def __init__(self, replicas: int) -> None:
        self.info = {
            "config": {"num_replicas": replicas},
            "state": {"first_seq": 1, "last_seq": 7, "messages": 7},
            "created": "2026-11-24T00:00:00Z",
        }

    async def js_request(self, api: str, payload: object = b"", *, timeout_s: float) -> dict[str, Any]:
        del payload, timeout_s
        assert api == "STREAM.INFO.COORDINATION_JOURNAL"
        return self.info


async def nothing(_: int) -> Record | None:
    return None


@pytest.mark.parametrize(("replicas", "doubt_s"), [(1, 0.0), (3, STALE_LEADER_S), (5, STALE_LEADER_S)])
def test_of_a_stream_with_replicas_an_older_state_is_doubted_first(replicas: int, doubt_s: float) -> None:
    """A process that only reads has no setting for the number of replicas: it takes it from the stream."""
    reader = JournalReader(cast("Bus", Told(replicas)), Subjects(), PullLimits(), nothing, doubt_s=0.0)
    assert asyncio.run(reader.bounds()) == Bounds(1, 7)
    assert reader.doubt_s == doubt_s

"""A room with few places: who waits is served in turn, source by source, and who gives up takes nothing along."""

from __future__ import annotations

import asyncio

from coordinator.health.fair_room import FairRoom


async def _visit(room: FairRoom, source: str, seen: list[str]) -> None:
    async with room.place(source):
        seen.append(source)
        await asyncio.sleep(0)


async def test_sources_are_served_in_turn() -> None:
    """One that waits behind a hundred of another source comes second."""
    room, seen = FairRoom(1), list[str]()
    await room.enter("greedy")
    waiting = [asyncio.create_task(_visit(room, "greedy", seen)) for _ in range(100)]
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(_visit(room, "modest", seen)) for _ in range(3)]
    await asyncio.sleep(0)
    room.leave("greedy")
    await asyncio.gather(*waiting)
    assert [number for number, source in enumerate(seen) if source == "modest"] == [1, 3, 5]
    assert len(seen) == 103


async def test_no_source_has_more_than_its_share() -> None:
    """Free places stay free for others when one source has all that it may have."""
    room, seen = FairRoom(4, of_one=2), list[str]()
    await room.enter("greedy")
    await room.enter("greedy")
    third = asyncio.create_task(_visit(room, "greedy", seen))
    await asyncio.sleep(0)
    await asyncio.wait_for(_visit(room, "modest", seen), 1)
    assert seen == ["modest"]
    room.leave("greedy")
    await asyncio.wait_for(third, 1)
    assert seen == ["modest", "greedy"]


async def test_who_gives_up_leaves_no_place_taken() -> None:
    """Also when it is cancelled in the moment that it gets its place."""
    room, seen = FairRoom(1), list[str]()
    await room.enter("a")
    early, late = (asyncio.create_task(_visit(room, "b", seen)) for _ in range(2))
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.wait([early])
    room.leave("a")  # `late` has the place now, and has not run yet
    late.cancel()
    await asyncio.wait([late])
    await asyncio.wait_for(_visit(room, "c", seen), 1)
    assert seen == ["c"]

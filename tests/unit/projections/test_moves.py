"""Which shares to put into other parts of a pool: each plan fits, gains more than it costs, and is the cheapest."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from events.base import START
from events.pool import Placing
from events.resources import NONE, Resources
from projections.ledger import covers, held_in, portion
from projections.moves import MOST_MOVES, Move, planned
from projections.pool import Allocation, Pool, Request
from tests.unit.deciders.facts import resources


def pool(parts: dict[str, int], shares: list[tuple[str, int]], placing: Placing = Placing.PACK, **others: Any) -> Pool:
    """Return a pool with these cores in parts, and movable shares with so many cores; those of `x…` do not move."""
    found = {}
    for number, (part, cores) in enumerate(shares):
        name = f"{'x' if part.isupper() else 'r'}{number}"
        found[name] = Allocation(
            request_id=name,
            resources=resources(cpu=cores * 1000),
            allocated_at=float(number),
            part=part.lower(),
            movable=not part.isupper(),
        )
    capacity = resources(cpu=sum(parts.values()) * 1000)
    return Pool(
        pool_id="p",
        capacity=capacity,
        defined=START,
        allocations=found,
        parts={part: resources(cpu=cores * 1000) for part, cores in parts.items()},
        placing=placing,
        **others,
    )


def waiting(cores: int) -> dict[str, Request]:
    return {"w": Request(request_id="w", resources=resources(cpu=cores * 1000), asked_at=9.0)}


def short(moves: list[Move]) -> list[tuple[str, str, str]]:
    return [(move.request_id, move.from_part, move.to_part) for move in moves]


def test_room_is_made_for_the_first_request_that_waits() -> None:
    """By the cheapest moves; the plan says what it gains and costs of the pool."""
    board = pool({"a": 4, "b": 4}, [("a", 1), ("b", 2)], waiting=waiting(4))
    (move,) = planned(board)
    assert short([move]) == [("r0", "a", "b")]
    assert (move.gain, move.cost) == (0.5, 0.125)
    assert move.why == "makes room for request w, which waits for 4000m cpu"


def test_moves_that_gain_only_together_share_the_gain() -> None:
    """Each fits after those before it; a share that need not move stays."""
    board = pool({"a": 4, "b": 6}, [("a", 1), ("a", 1), ("a", 1), ("B", 3)], waiting=waiting(3))
    assert {move.why for move in planned(board)} == {"empties part a"}  # b has room
    board = pool({"a": 4, "b": 6}, [("a", 1), ("a", 1), ("a", 1), ("B", 4)], waiting=waiting(3))
    moves = planned(board)
    assert short(moves) == [("r1", "a", "b"), ("r0", "a", "b")]
    assert sum(move.gain for move in moves) == 0.3


def test_a_share_that_a_larger_one_makes_needless_stays() -> None:
    """The smallest are looked at first, and may be too little."""
    (move,) = planned(pool({"a": 5, "b": 3, "c": 1}, [("a", 1), ("a", 3)], waiting=waiting(4)))
    assert short([move]) == [("r1", "a", "b")]


def test_what_does_not_move_or_does_not_help_is_not_planned() -> None:
    """Shares that are not movable, room that is not there, and a pool without parts."""
    assert planned(pool({"a": 4, "b": 4}, [("A", 1), ("B", 2)], waiting=waiting(4))) == []
    assert planned(pool({"a": 4, "b": 4}, [("a", 2), ("b", 3)], waiting=waiting(4))) == []
    assert planned(pool({}, [("", 1)])) == []
    assert planned(pool({"a": 2, "b": 2, "c": 8}, [("c", 5), ("A", 1), ("B", 1)], waiting=waiting(5))) == []


def test_to_pack_the_emptiest_part_is_emptied() -> None:
    """If all of it may move into parts that are in use: then nobody uses that one."""
    moves = planned(pool({"a": 8, "b": 8, "c": 8}, [("a", 5), ("b", 1), ("c", 4)]))
    assert short(moves) == [("r1", "b", "a")]
    assert (moves[0].why, moves[0].gain, moves[0].cost) == ("empties part b", 8 / 24, 1 / 24)
    assert planned(pool({"a": 8, "b": 8}, [("A", 5), ("B", 1)])) == []
    assert short(planned(pool({"a": 8, "b": 8}, [("a", 5), ("B", 1)]))) == [("r0", "a", "b")]
    assert planned(pool({"a": 8, "b": 8}, [("a", 8), ("b", 1)])) == []
    assert planned(pool({"a": 8, "b": 8}, [("a", 5)])) == []  # b is empty


def test_to_spread_the_fullest_part_is_relieved() -> None:
    """As long as the fuller of the two gets less full."""
    moves = planned(pool({"a": 8, "b": 8}, [("a", 2), ("a", 3), ("a", 3)], Placing.SPREAD))
    assert short(moves) == [("r1", "a", "b")]
    assert moves[0].gain == 1.0 - 5 / 8
    assert moves[0].why == "the fullest part was 100% full"
    assert planned(pool({"a": 8, "b": 8}, [("a", 8)], Placing.SPREAD)) == []
    assert planned(pool({"a": 8, "b": 2}, [("a", 8)], Placing.SPREAD)) == []


def test_a_plan_is_bounded() -> None:
    """Not more moves at a time than one may look through."""
    many = [("a", 1)] * 200
    assert len(planned(pool({"a": 200, "b": 200}, many, Placing.SPREAD))) == MOST_MOVES
    assert planned(pool({"a": 200, "b": 200, "c": 1}, [*many[:60], ("B", 100)], waiting=waiting(200))) == []
    assert planned(pool({"a": 200, "b": 200}, [*many[:60], ("B", 100)])) == []


PARTS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)
SHARES = st.lists(st.tuples(st.sampled_from("abcdABCDz"), st.integers(0, 5)), max_size=12)


@settings(max_examples=500, deadline=None)
@for_all(PARTS, SHARES, st.sampled_from(Placing), st.integers(0, 9))
def test_every_plan_fits_and_gains_more_than_it_costs(
    parts: dict[str, int], shares: list[tuple[str, int]], placing: Placing, asked: int
) -> None:
    """Move after move, no part has more than it holds; then the request that waits fits, or the pool is tidier."""
    fitting: list[tuple[str, int]] = []
    for part, cores in shares:
        if sum(size for other, size in fitting if other.lower() == part.lower()) + cores <= parts.get(part.lower(), 0):
            fitting.append((part, cores))
    board = pool(parts, fitting, placing, waiting=waiting(asked) if asked else {})
    moves = planned(board)
    allocations = dict(board.allocations)
    for move in moves:
        share = allocations[move.request_id]
        assert share.movable
        assert share.part == move.from_part != move.to_part
        allocations[move.request_id] = msgspec.structs.replace(share, part=move.to_part)
        for part, has in board.parts.items():
            assert held_in(allocations.values()).get(f"part:{part}", NONE).fits_in(has)
    if not moves:
        return
    assert sum(move.gain for move in moves) > sum(move.cost for move in moves)
    assert all(move.cost == portion(board.allocations[move.request_id].resources, board.capacity) for move in moves)
    if moves[0].why.startswith("makes room"):
        assert any(covers(room, resources(cpu=asked * 1000)) for room in free_of(board, allocations))
        assert not any(covers(room, resources(cpu=asked * 1000)) for room in free_of(board, board.allocations))
    elif placing is Placing.PACK:
        assert used(allocations) == used(board.allocations) - {moves[0].from_part}


def used(allocations: dict[str, Allocation]) -> set[str]:
    return {share.part for share in allocations.values() if share.resources != NONE}


def free_of(board: Pool, allocations: dict[str, Allocation]) -> list[Resources]:
    held = held_in(allocations.values())
    return [has - held.get(f"part:{part}", NONE) for part, has in board.parts.items()]

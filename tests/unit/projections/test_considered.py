"""What turns say of waiting claims adds up to what the writer saw."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from events.coordinator import ClaimFilter, CoordinatorTurn, WaitingClaim
from events.task import TaskStarted
from projections.considered import SPARE_WORKERS, Considered

IDS = st.sampled_from("abcdef")
CLAIMS = st.dictionaries(IDS, st.builds(WaitingClaim, IDS, IDS, st.integers(1, 2), st.just("fifo")))
SEEN = st.tuples(
    CLAIMS,
    st.dictionaries(IDS, st.builds(ClaimFilter, programs=st.tuples(IDS))),
    st.dictionaries(IDS, st.sampled_from([0.0, 0.5])),
    st.dictionaries(IDS, st.sampled_from(["running", "paused"])),
    st.sets(IDS),
    st.sets(IDS, max_size=2),
)


def turn(**fields: Any) -> CoordinatorTurn:
    given_ = {"claims_digest": "1", "claims": ()} | fields
    return CoordinatorTurn(instance="i", now=1.0, policy="schedule", policy_version=2, placed=1, **given_)


def started(claim_id: str) -> TaskStarted:
    return TaskStarted(task_id="t", worker_id="w", claim_id=claim_id, attempt=1, lease="l")


@given(st.lists(SEEN, max_size=8))
def test_the_changes_of_all_turns_add_up_to_what_was_seen(seens: list[Any]) -> None:
    """In the order in which claims are served, whatever came, went, changed or moved; writer and reader alike."""
    writer, reader = Considered(), Considered()
    for claims, filters, loads, containers, moved, served in seens:
        named = {name: WaitingClaim(name, *one[1:]) for name, one in _fields(claims)}
        named = {name: writer.claims[name] if writer.claims.get(name) == one else one for name, one in named.items()}
        known = [name for name in writer.claims if name in named and name not in moved]
        seen = {name: named[name] for name in (*known, *(name for name in named if name not in known))}
        kept = {name: one for name, one in filters.items() if name in seen and name not in known}
        kept |= {name: writer.filters[name] for name in known if name in writer.filters}
        changed = {name for name in known if writer.claims[name] is not seen[name]}
        kept = {name: one for name, one in kept.items() if name not in changed}
        made = turn(**writer.changes(seen, kept, loads, containers, moved))
        for one in (writer, reader):
            one.take(made)
            assert list(one.claims.items()) == list(seen.items())
            assert one.filters == kept
            assert all(one.loads.get(name, 0.0) == load for name, load in loads.items())
            assert all(one.containers[name] == said for name, said in containers.items())
        assert writer.digest() == reader.digest()
        for one in (writer, reader):
            one.serve(map(started, served))
            assert not served & one.claims.keys()


def _fields(claims: dict[str, WaitingClaim]) -> list[tuple[str, tuple[Any, ...]]]:
    return [(name, ("", one.worker_id, one.slots, one.strategy)) for name, one in claims.items()]


def test_a_fresh_turn_and_one_of_an_older_release_name_everything() -> None:
    """What was seen before does not count any more."""
    for fields in ({"fresh": True}, {"claims_digest": ""}):
        seen = Considered()
        seen.take(turn(claims=(WaitingClaim("a", "w", 1, "fifo"),), loads={"w": 0.5}, containers={"k": "running"}))
        seen.take(turn(claims=(WaitingClaim("b", "w", 1, "fifo"),), **fields))
        assert (list(seen.claims), seen.loads, seen.containers) == (["b"], {}, {})


def test_the_digest_covers_everything() -> None:
    """Any other claim, order, filter, load or state gives another one."""
    one, two = WaitingClaim("a", "w", 1, "fifo"), WaitingClaim("b", "w", 1, "fifo")
    different: list[dict[str, Any]] = [
        {},
        {"claims": (one,)},
        {"claims": (one, two)},
        {"claims": (two, one)},
        {"claims": (one,), "filters": {"a": ClaimFilter(programs=("p",))}},
        {"claims": (one,), "loads": {"w": 0.5}},
        {"claims": (one,), "containers": {"k": "running"}},
    ]
    digests = set()
    for fields in different:
        seen = Considered()
        seen.take(turn(**fields))
        digests.add(seen.digest())
    assert len(digests) == len(different)


def test_what_is_known_of_workers_that_left_is_dropped() -> None:
    """By a rule that writer and reader share, after the turn that it was needed for."""
    seen = Considered()
    loads = {f"w{number}": 0.5 for number in range(SPARE_WORKERS + 1)}
    seen.take(turn(loads=loads, containers={"k": "running"}))
    assert seen.loads == loads
    seen.serve(())
    assert (seen.loads, seen.containers) == ({}, {"k": "running"})

"""The checks that every decider uses."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.validation import AMOUNT_MAX, check_number, check_resources, check_text
from coordinator.deciders.rules import Rules, doubled
from coordinator.deciders.submission import check_payload
from events.errors import Refused
from tests.unit.deciders.facts import ABSURD, HOSTILE_TEXTS, INFINITY, NAN, resources


def test_rules_know_the_built_in_agent() -> None:
    """Each set of rules has a catalogue of its own."""
    assert Rules().agents["task_agent"].command[0] == "python"
    assert Rules().agents is not Rules().agents


@pytest.mark.parametrize("text", ["", "a", "Grüße, 世界", "x" * 9])
def test_printable_text_of_the_right_length_is_given_back(text: str) -> None:
    """Of any script."""
    assert check_text("name", text, 9) is text


@pytest.mark.parametrize(("text", "least"), [("x" * 10, 0), ("", 1)])
def test_text_of_another_length_is_refused(text: str, least: int) -> None:
    """The refusal states the length and the allowed length."""
    with pytest.raises(Refused, match=f"name has {len(text)} characters: use {least} to 9"):
        check_text("name", text, 9, least=least)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_control_characters_are_refused_and_shown_escaped(text: str) -> None:
    """So that the refusal itself can be shown."""
    with pytest.raises(Refused) as refused:
        check_text("name", text, 9)
    assert refused.value.message.isprintable()
    assert refused.value.message.isascii()


@pytest.mark.parametrize("number", [0, 0.0, 1, 0.5])
def test_a_number_in_range_is_accepted(number: float) -> None:
    """The ends of the range are allowed."""
    check_number("share", number, 0, 1)


@pytest.mark.parametrize("number", [-1, 1.0001, NAN, INFINITY, -INFINITY, 10**400])
def test_a_number_out_of_range_is_refused(number: float) -> None:
    """NaN is outside of every range."""
    with pytest.raises(Refused, match=r"is out of range: use 0 to 1") as refused:
        check_number("share", number, 0, 1)
    assert refused.value.reason == "bad_number"


def test_amounts_may_be_nothing_and_up_to_what_sums_can_hold() -> None:
    """Each of the three by itself."""
    check_resources("room", resources())
    check_resources("room", resources(AMOUNT_MAX, AMOUNT_MAX, AMOUNT_MAX))


@pytest.mark.parametrize("amounts", ABSURD)
def test_amounts_below_nothing_are_refused(amounts: object) -> None:
    """The refusal names the amount."""
    with pytest.raises(Refused, match=r"room\.(cpu_millis|memory_bytes|gpus) "):
        check_resources("room", amounts)  # type: ignore[arg-type]  # the values are what is tested


def test_no_payload_is_a_good_payload() -> None:
    """Most tasks have none."""
    check_payload("payload", None, Rules())


@for_all(first_s=st.floats(1e-6, 1e6), times=st.integers(0, 10**6), most_s=st.floats(1e-6, 1e6))
def test_pauses_double_and_never_overflow(first_s: float, times: int, most_s: float) -> None:
    """Never longer than the longest, never shorter than the one before."""
    pause_s = doubled(first_s, times, most_s)
    assert 0 < pause_s <= most_s
    assert doubled(first_s, times + 1, most_s) >= pause_s
    assert doubled(first_s, 0, most_s) == min(first_s, most_s)

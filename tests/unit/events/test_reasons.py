"""The table of reason codes holds exactly what the code says."""

from __future__ import annotations

import re

from coordinator.engine.refusals import OF_CLAIMS, RECORDED
from events.errors import ERRORS
from events.reasons import REASONS
from tests.reason_codes import reason_codes

SENTENCES = {
    "its container stopped",
    "its container was destroyed",
    "its node no longer has it",
    "lost for too long",
    "offline for too long",
    "unhealthy for too long",
}
"""Published before there was a table; no other reason may be one."""


def test_every_reason_in_the_code_is_in_the_table() -> None:
    """A new one needs its line in events/reasons.py: others tell errors apart by it."""
    found = reason_codes()
    assert len(found) > 100
    assert {code: where for code, where in found.items() if code not in REASONS} == {}


def test_no_reason_in_the_table_is_left_over() -> None:
    """A reason that the code does not give any more would be waited for in vain."""
    assert set(REASONS) - set(reason_codes()) - set(ERRORS) == set()
    assert set(ERRORS) <= set(REASONS)


def test_reasons_are_words_and_each_has_a_meaning() -> None:
    """A reason is a code, not a text that is put better one day."""
    assert {code for code in REASONS if not re.fullmatch(r"[a-z][a-z_]{2,40}", code)} == SENTENCES
    assert all(meaning and meaning[-1] != "." and len(meaning) <= 100 for meaning in REASONS.values())
    assert len(set(REASONS.values())) == len(REASONS)


def test_what_is_recorded_is_in_the_table() -> None:
    """The reasons of refused commands are among them."""
    assert set(REASONS) >= RECORDED | OF_CLAIMS

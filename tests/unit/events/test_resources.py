"""Amounts are read as Kubernetes writes them and kept as integers: sums are exact, and nothing is rounded down."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, Inexact, localcontext
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from events.errors import Refused
from events.resources import NONE, Resources

MOST = 2**53
SUFFIXES = {
    "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
    "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip

amounts = st.builds(
    Resources,
    cpu_millis=st.integers(0, MOST),
    memory_bytes=st.integers(0, MOST),
    gpus=st.integers(0, MOST),
    named=st.dictionaries(st.sampled_from(["licences", "tpu", "a"]), st.integers(1, MOST), max_size=2),
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"cpu": "500m"}, Resources(cpu_millis=500)),
        ({"cpu": "1"}, Resources(cpu_millis=1000)),
        ({"cpu": 2}, Resources(cpu_millis=2000)),
        ({"cpu": 0.5}, Resources(cpu_millis=500)),
        ({"cpu": "1.5"}, Resources(cpu_millis=1500)),
        ({"cpu": ".25"}, Resources(cpu_millis=250)),
        ({"cpu": 0.1}, Resources(cpu_millis=100)),
        ({"cpu": "0.1m"}, Resources(cpu_millis=1)),
        ({"cpu": 1e-9}, Resources(cpu_millis=1)),
        ({"cpu": -0.0}, NONE),
        ({"memory": "2Gi"}, Resources(memory_bytes=2 * 2**30)),
        ({"memory": "512Mi"}, Resources(memory_bytes=512 * 2**20)),
        ({"memory": "1.5Ki"}, Resources(memory_bytes=1536)),
        ({"memory": "128974848"}, Resources(memory_bytes=128974848)),
        ({"memory": "129M"}, Resources(memory_bytes=129_000_000)),
        ({"memory": "1k"}, Resources(memory_bytes=1000)),
        ({"memory": "1500m"}, Resources(memory_bytes=2)),
        ({"memory": 4096}, Resources(memory_bytes=4096)),
        ({"memory": 0.1}, Resources(memory_bytes=1)),
        ({"memory": MOST}, Resources(memory_bytes=MOST)),
        ({"memory": "8Pi"}, Resources(memory_bytes=MOST)),
        ({"gpu": 1}, Resources(gpus=1)),
        ({"gpu": "0.5"}, Resources(gpus=1)),
        ({"cpu": "100m", "memory": "64Mi", "gpu": 2}, Resources(cpu_millis=100, memory_bytes=64 * 2**20, gpus=2)),
        ({}, NONE),
        (None, NONE),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(written: dict[str, object] | None, meant: Resources) -> None:
    """CPU in cores or thousandths, memory in bytes, decimal or binary multiples; what is left over is rounded up."""
    assert Resources.parse(written) == meant


@given(st.integers(0, 10**17), st.integers(0, 10**9 - 1), st.sampled_from(sorted(SUFFIXES)))
def test_any_quantity_is_read_exactly_and_rounded_up(whole: int, parts: int, suffix: str) -> None:
    """Reading agrees with exact arithmetic on fractions; what is too large is refused and shown."""
    text = f"{whole}.{parts:09d}{suffix}"
    exact = (whole + Fraction(parts, 10**9)) * SUFFIXES[suffix]
    if exact > MOST:
        with pytest.raises(Refused, match="is too large") as refused:
            Resources.parse({"memory": text})
        assert text in refused.value.message
        return
    assert Resources.parse({"memory": text}).memory_bytes == ceil(exact)
    if exact * 1000 <= MOST:
        assert Resources.parse({"cpu": text}).cpu_millis == ceil(exact * 1000)


@given(st.integers(0, MOST), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G"]))
def test_what_is_written_in_whole_units_is_read_back(count: int, suffix: str) -> None:
    """No rounding at all where nothing is left over."""
    factor = int(SUFFIXES[suffix])
    assume(count * factor <= MOST)
    assert Resources.parse({"memory": f"{count}{suffix}"}) == Resources(memory_bytes=count * factor)


@given(st.floats(min_value=0, max_value=2.0**40, allow_nan=False))
def test_a_number_is_never_rounded_down(cores: float) -> None:
    """A float means the decimal it prints as; a request never shrinks, and grows by less than one unit."""
    millis = Resources.parse({"cpu": cores}).cpu_millis
    exact = Fraction(str(cores)) * 1000
    assert exact <= millis < exact + 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), float("-inf"), -1, -0.001, "-1", "-500m", "+1", True, False, None, [], {}, b"1",
        Decimal(1), 1j, "", " ", "1 ", " 1", "1\n", "1 Gi", "Gi", "m", ".", "1.", "1..2", "1.2.3", "1e3",
    "1E3x", "0x10",
        "1_000", "1,5", "1K", "1ki", "1mi", "1mm", "1gi", "1GI", "1Gib", "1GB", "1Zi", "1n", "1u", "nan", "inf",
    "NaN", "٣",
        "１", "²", "1" * 19, "0." + "1" * 10, "9" * 5000, "one", "\0", "1\0", 10**5000, MOST + 1, 1e300,
    ],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else hex(value)[:20],
)  # fmt: skip
@pytest.mark.parametrize("name", ["cpu", "memory", "gpu"])
def test_what_is_no_quantity_is_refused_and_shown(name: str, value: object) -> None:
    """NaN, infinity, negatives, truth values, other scripts' digits, unknown suffixes: refused, never guessed at."""
    with pytest.raises(Refused, match="is not a quantity") as refused:
        Resources.parse({name: value})
    assert refused.value.reason == "bad_quantity"
    assert refused.value.message.startswith(f"{name} ")
    assert len(refused.value.message) < 250
    if not isinstance(value, int) or value < 10:
        assert repr(value)[:20] in refused.value.message


@pytest.mark.parametrize(
    ("name", "value"), [("cpu", "9007199254741"), ("cpu", MOST), ("memory", "9Pi"), ("gpu", "9007199254740993")]
)
def test_a_quantity_too_large_to_be_exact_everywhere_is_refused(name: str, value: object) -> None:
    """Beyond 2**53 a JSON reader may round: such an amount is refused rather than changed."""
    with pytest.raises(Refused, match=r"is too large: at most 2\*\*53") as refused:
        Resources.parse({name: value})
    assert refused.value.reason == "bad_quantity"
    assert repr(value) in refused.value.message


@pytest.mark.parametrize("amounts", ["500m", 1, ["cpu"], {"cpu"}, object()])
def test_what_is_no_mapping_is_refused(amounts: object) -> None:
    """Amounts come by name."""
    with pytest.raises(Refused, match="is not a mapping") as refused:
        Resources.parse(amounts)  # type: ignore[arg-type]  # what a user might pass
    assert refused.value.reason == "bad_resources"


@pytest.mark.parametrize("key", ["CPU", "", "cpu ", 1, None, "x" * 33, "x" * 500, "1x", "_x", "x-y", "ä"])
def test_an_unknown_resource_is_refused_by_name(key: object) -> None:
    """A misspelled key must not count as an amount of zero."""
    with pytest.raises(Refused, match="use cpu, memory, gpu") as refused:
        Resources.parse({key: 1})  # type: ignore[dict-item]  # what a user might pass
    assert refused.value.reason == "bad_resources"
    assert repr(key)[:20] in refused.value.message
    assert len(refused.value.message) < 220


@pytest.mark.parametrize(
    ("key", "meant"), [("mem", "memory"), ("ram", "memory"), ("gpus", "gpu"), ("cpus", "cpu"), ("cores", "cpu")]
)
def test_a_name_that_means_another_resource_is_refused(key: str, meant: str) -> None:
    """As an amount of its own no worker would have any of it."""
    with pytest.raises(Refused, match=f"resource '{key}' is not known: use {meant}") as refused:
        Resources.parse({key: 1})
    assert refused.value.reason == "bad_resources"


def test_anything_else_may_have_a_name_and_whole_numbers() -> None:
    """At most eight names; what is 0 is not there."""
    assert Resources.parse({"cpu": 1, "licences": 2, "tpu_v5": "3", "none": 0}) == Resources(
        cpu_millis=1000, named={"licences": 2, "tpu_v5": 3}
    )
    eight = {f"x{number}": 1 for number in range(8)}
    assert Resources.parse({**eight, "cpu": 1}).named == eight
    with pytest.raises(Refused, match="resources names 9 besides cpu, memory, gpu: use at most 8") as refused:
        Resources.parse({**eight, "y": 1})
    assert refused.value.reason == "too_many"
    for value in (0.5, "500m", MOST + 1):
        with pytest.raises(Refused, match=r"^resource licences .* is not a") as refused:
            Resources.parse({"licences": value})
        assert refused.value.reason == "bad_quantity"


def test_amounts_with_names_are_keys() -> None:
    """They are part of what decides where a task may run; the order of the names does not count."""
    one, other = Resources.parse({"a": 1, "b": 2}), Resources.parse({"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, Resources.parse({"a": 1}), Resources.parse({"a": 2}), NONE}) == 4


def test_who_does_not_name_something_has_none_of_it() -> None:
    """And says so."""
    asked = Resources.parse({"licences": 2})
    assert not asked.fits_in(Resources(cpu_millis=9))
    assert asked.lacking(Resources(cpu_millis=9)) == "licences: asked 2, free 0"
    assert asked.fits_in(Resources(named={"licences": 2, "others": 1}))
    assert asked - asked == NONE


@given(amounts, amounts)
def test_the_larger_of_both_holds_both(one: Resources, other: Resources) -> None:
    """And nothing smaller does."""
    most = one.most(other)
    assert one.fits_in(most)
    assert other.fits_in(most)
    assert most.fits_in(one + other)
    assert one.most(one) == one == one.most(NONE)


def test_reading_does_not_depend_on_the_callers_decimal_context() -> None:
    """Amounts are exact even if the caller has set another decimal precision."""
    with localcontext(Context(prec=3, rounding=ROUND_CEILING, traps=[Inexact])):
        assert Resources.parse({"memory": "123456789", "cpu": "1234.567"}) == Resources(
            memory_bytes=123456789, cpu_millis=1234567
        )


@given(amounts, amounts)
def test_sums_and_differences_undo_each_other(one: Resources, other: Resources) -> None:
    """Integers: nothing is lost."""
    assert one + other == other + one
    assert (one + other) - other == one
    assert one + NONE == one == one - NONE
    assert one - one == NONE


@given(amounts, amounts, amounts)
def test_sums_do_not_depend_on_their_order(one: Resources, two: Resources, three: Resources) -> None:
    """So the reserved amount does not depend on the order of requests."""
    assert (one + two) + three == one + (two + three)


@given(amounts, amounts)
def test_something_fits_exactly_where_nothing_is_lacking(asked: Resources, free: Resources) -> None:
    """`fits_in`, `lacking` and the difference agree."""
    left = free - asked
    fits = min(left.cpu_millis, left.memory_bytes, left.gpus, *left.named.values()) >= 0
    assert asked.fits_in(free) == fits
    assert (asked.lacking(free) == "") == fits


@given(amounts, amounts)
def test_fitting_is_kept_when_room_grows(asked: Resources, more: Resources) -> None:
    """Everything fits in itself and in more; nothing fits twice in the same."""
    assert asked.fits_in(asked)
    assert asked.fits_in(asked + more)
    assert NONE.fits_in(asked)
    assert (asked + asked).fits_in(asked) == (asked == NONE)


def test_lacking_names_each_amount_with_its_unit() -> None:
    """The message has what was asked and what is free, only for amounts that do not fit."""
    asked = Resources(cpu_millis=2000, memory_bytes=10, gpus=1)
    free = Resources(cpu_millis=500, memory_bytes=10)
    assert asked.lacking(free) == "cpu: asked 2000m, free 500m; gpu: asked 1, free 0"
    assert asked.lacking(Resources(cpu_millis=2000, gpus=1)) == "memory: asked 10 bytes, free 0 bytes"

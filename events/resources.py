"""
Amounts of compute: CPU in thousandths of a core, memory in bytes, whole GPUs, whole numbers of anything else by name.

Quantities are read as Kubernetes writes them (`"500m"`, `"2Gi"`) and kept as integers, so sums are exact.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING

import msgspec

from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MAXIMUM = 2**53
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(m|k|Ki|[MGTPE]i?|)")
_FACTOR = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{f"{letter}": Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}
_EXACT = Context(prec=64)
"""Precise enough for every quantity; the thread's own context belongs to the caller."""

_KEYS = ("cpu", "memory", "gpu")
_MISTAKEN = {"cpus": "cpu", "cores": "cpu", "mem": "memory", "ram": "memory", "gpus": "gpu"}
"""Names that would be good ones for another resource, and are meant for one of these."""
NAMED_MAX = 8
is_name = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch


class Resources(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What something needs, holds or offers; supports `+`, `-` and `fits_in`.

    `named` has amounts of anything else, such as licences; who does not name one has 0 of it.
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    named: dict[str, int] = {}

    @classmethod
    def parse(cls, amounts: Mapping[str, object] | None) -> Resources:
        """
        Parse `{"cpu": "500m", "memory": "2Gi", "gpu": 1}`; plain numbers are cores, bytes and GPUs.

        Up to 8 other names have whole numbers: `{"licences": 2}`.

        Raises:
            Refused: a key is no name, or a value is not a quantity.
        """
        if not amounts and (amounts is None or hasattr(amounts, "items")):
            return NONE
        if not hasattr(amounts, "items"):
            msg = f"resources {shown(amounts)} is not a mapping: use one such as {{'cpu': '500m', 'memory': '2Gi'}}"
            raise Refused(msg, reason="bad_resources")
        others = [key for key in amounts if key not in _KEYS]
        check_names(others)
        return cls(
            cpu_millis=_whole("cpu", amounts.get("cpu", 0), Decimal(1000)),
            memory_bytes=_whole("memory", amounts.get("memory", 0), Decimal(1)),
            gpus=_whole("gpu", amounts.get("gpu", 0), Decimal(1)),
            named={str.__str__(key): amount for key in others if (amount := _count(key, amounts[key]))},
        )

    def __hash__(self) -> int:
        plain = (self.cpu_millis, self.memory_bytes, self.gpus)
        return hash((plain, frozenset(self.named.items())) if self.named else plain)

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis + other.cpu_millis,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            gpus=self.gpus + other.gpus,
            named=_sum(self.named, other.named, 1) if other.named else self.named,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis - other.cpu_millis,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            gpus=self.gpus - other.gpus,
            named=_sum(self.named, other.named, -1) if other.named else self.named,
        )

    def fits_in(self, free: Resources) -> bool:
        """Return whether *free* covers every requested amount."""
        fits = self.cpu_millis <= free.cpu_millis and self.memory_bytes <= free.memory_bytes and self.gpus <= free.gpus
        if not fits or not (self.named or free.named):
            return fits
        return all(self.named.get(name, 0) <= free.named.get(name, 0) for name in {**self.named, **free.named})

    def lacking(self, free: Resources) -> str:
        """Return what *free* does not cover, as `cpu: asked 2000m, free 500m`; empty when it fits."""
        return "; ".join(
            f"{name}: asked {asked}{unit}, free {has}{unit}"
            for name, asked, has, unit in (
                ("cpu", self.cpu_millis, free.cpu_millis, "m"),
                ("memory", self.memory_bytes, free.memory_bytes, " bytes"),
                ("gpu", self.gpus, free.gpus, ""),
                *((name, asked, free.named.get(name, 0), "") for name, asked in sorted(self.named.items())),
            )
            if asked > has
        )

    def most(self, other: Resources) -> Resources:
        """Return the larger of both amounts of each kind."""
        names = {**self.named, **other.named}
        return Resources(
            cpu_millis=max(self.cpu_millis, other.cpu_millis),
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            gpus=max(self.gpus, other.gpus),
            named={name: max(self.named.get(name, 0), other.named.get(name, 0)) for name in names},
        )


NONE = Resources()


def check_names(names: Collection[object]) -> None:
    """
    Accept the names of amounts besides CPU, memory and GPUs.

    Raises:
        Refused: they are too many, or one is none, or seems to mean one of these.
    """
    if len(names) > NAMED_MAX:
        msg = f"resources names {len(names)} besides {', '.join(_KEYS)}: use at most {NAMED_MAX}"
        raise Refused(msg, reason="too_many")
    for name in names:
        meant = _MISTAKEN.get(name) if isinstance(name, str) else None
        if meant is not None:
            raise Refused(f"resource {shown(name)} is not known: use {meant}", reason="bad_resources")
        if not isinstance(name, str) or not is_name(name):
            msg = (
                f"resource {shown(name)} is not a name: use {', '.join(_KEYS)}, or up to 32 small letters, digits and _"
            )
            raise Refused(msg, reason="bad_resources")


def _sum(one: Mapping[str, int], other: Mapping[str, int], sign: int) -> dict[str, int]:
    """Return the sum or the difference of named amounts; what comes to 0 is not named."""
    total = {name: one.get(name, 0) + sign * other.get(name, 0) for name in {**one, **other}}
    return {name: amount for name, amount in total.items() if amount}


def _count(name: str, value: object) -> int:
    """Return a whole number of what is named."""
    amount = _quantity(f"resource {name}", value)
    if amount > _MAXIMUM or amount != amount.to_integral_value():
        msg = f"resource {name} {shown(value)} is not a whole number from 0 to 2**53"
        raise Refused(msg, reason="bad_quantity")
    return int(amount)


def _whole(name: str, value: object, factor: Decimal) -> int:
    """Parse one quantity and convert it to whole units, rounding up."""
    amount = _EXACT.multiply(_quantity(name, value), factor)
    if amount > _MAXIMUM:
        msg = f"{name} {shown(value)} is too large: at most 2**53 after conversion"
        raise Refused(msg, reason="bad_quantity")
    return int(amount.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def _quantity(name: str, value: object) -> Decimal:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # A value of a class of its own, such as a member of an enum, may write itself as something else.
        plain = float.__float__(value) if isinstance(value, float) else int.__index__(value)
        if 0 <= plain <= _MAXIMUM:  # NaN fails both
            return Decimal(str(plain))
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(str.__str__(value))):
        return _EXACT.multiply(Decimal(match[1]), _FACTOR[match[2]])
    msg = f"{name} {shown(value)} is not a quantity: use a number ≥ 0, or text such as '500m', '1.5', '2Gi', '512Mi'"
    raise Refused(msg, reason="bad_quantity")

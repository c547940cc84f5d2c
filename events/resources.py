"""
Amounts of compute: CPU in thousandths of a core, memory in bytes, whole GPUs.

Quantities are read as Kubernetes writes them (`"500m"`, `"2Gi"`) and kept as integers, so sums are exact.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING

import msgspec

from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class Resources(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What something needs, holds or offers; supports `+`, `-` and `fits_in`."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    @classmethod
    def parse(cls, amounts: Mapping[str, object] | None) -> Resources:
        """
        Parse `{"cpu": "500m", "memory": "2Gi", "gpu": 1}`; plain numbers are cores, bytes and GPUs.

        Raises:
            Refused: a key is not one of cpu, memory, gpu, or a value is not a quantity.
        """
        if not amounts and (amounts is None or hasattr(amounts, "items")):
            return NONE
        if not hasattr(amounts, "items"):
            msg = f"resources {shown(amounts)} is not a mapping: use one such as {{'cpu': '500m', 'memory': '2Gi'}}"
            raise Refused(msg, reason="bad_resources")
        for key in amounts:
            if key not in _KEYS:
                msg = f"resource {shown(key)} is not known: use {', '.join(_KEYS)}"
                raise Refused(msg, reason="bad_resources")
        return cls(
            cpu_millis=_whole("cpu", amounts.get("cpu", 0), Decimal(1000)),
            memory_bytes=_whole("memory", amounts.get("memory", 0), Decimal(1)),
            gpus=_whole("gpu", amounts.get("gpu", 0), Decimal(1)),
        )

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis + other.cpu_millis,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            gpus=self.gpus + other.gpus,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis - other.cpu_millis,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            gpus=self.gpus - other.gpus,
        )

    def fits_in(self, free: Resources) -> bool:
        """Return whether *free* covers every requested amount."""
        return self.cpu_millis <= free.cpu_millis and self.memory_bytes <= free.memory_bytes and self.gpus <= free.gpus

    def lacking(self, free: Resources) -> str:
        """Return what *free* does not cover, as `cpu: asked 2000m, free 500m`; empty when it fits."""
        return "; ".join(
            f"{name}: asked {asked}{unit}, free {has}{unit}"
            for name, asked, has, unit in (
                ("cpu", self.cpu_millis, free.cpu_millis, "m"),
                ("memory", self.memory_bytes, free.memory_bytes, " bytes"),
                ("gpu", self.gpus, free.gpus, ""),
            )
            if asked > has
        )


NONE = Resources()


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

"""Types of fields and sections: which values are allowed, and the error for any other. Nothing is read here."""

from __future__ import annotations

import json
import re
import shlex
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from coordinator.commands.queue import STRATEGIES
from events.errors import Refused
from events.ids import checked
from events.nats_address import servers_of
from events.resources import Resources
from projections.node_filters import condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo


DAY_S = 86_400.0
REPLICAS = (1, 3, 5)
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ENTRIES_MOST = 256
TEXT_MOST = 4096
LABELS_MOST, LABEL_CHARS = 64, 256
_is_label = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}").fullmatch
CODES = 256
"""No exit code is as large as that."""
_is_image = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,511}").fullmatch


def number(default: float, least: float, most: float, about: str) -> Any:
    """Declare a number from *least* to *most*; a whole number if the annotation is `int`."""
    return Field(default=default, ge=least, le=most, description=about)


def number_or_none(least: float, most: float, about: str) -> Any:
    """Declare a number from *least* to *most* that need not be set."""
    return Field(default=None, ge=least, le=most, description=about)


def plain(default: Any, about: str) -> Any:
    """Declare any other field."""
    return Field(default=default, description=about)


def wrong(right: str) -> PydanticCustomError:
    """Return the error of one key: *right* says what is allowed."""
    return PydanticCustomError("wrong", "{right}", {"right": right})


def apart(problem: str) -> PydanticCustomError:
    """Return the error of keys that are valid alone but contradict each other: *problem* is the whole message."""
    return PydanticCustomError("apart", "{problem}", {"problem": problem})


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key below *model*, dotted; `<name>` stands for a name that the user chooses."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield f"{before}{name}", field
        else:
            yield from keys_of(section, f"{before}{name}.{'<name>.' if is_mapping(field) else ''}")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key, or each entry of a mapping, holds; None for a plain value."""
    annotation = get_args(field.annotation)[1] if is_mapping(field) else field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def is_mapping(field: FieldInfo) -> bool:
    """Return whether the keys below *field* are names that the user chooses."""
    return get_origin(field.annotation) is dict


def of_no_other_type(value: object) -> object:
    """
    Return *value* unless it is a boolean or bytes, which YAML makes of `off` and of `!!binary`: no key is one.

    They would be accepted as a number, and as text.
    """
    if isinstance(value, bool | bytes):
        raise PydanticCustomError("other_type", "of another type")
    return value


def _listed(value: object, split: Callable[[str], list[str]]) -> object:
    """Parse a list from an environment variable: as JSON, or as text that *split* splits."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else split(value)
    except ValueError:
        raise wrong('use a list; in an environment variable, as JSON: ["one","two"]') from None


def _command(value: object) -> object:
    return _listed(value, shlex.split)


def _checked_command(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > ENTRIES_MOST or any(not 0 < len(word) <= TEXT_MOST or "\0" in word for word in value):
        raise wrong(f"use at most {ENTRIES_MOST} words, each of 1 to {TEXT_MOST} characters without NUL")
    return value


def _networks(value: object) -> object:
    items = _listed(value, lambda text: [item.strip() for item in text.split(",") if item.strip()])
    if not isinstance(items, list | tuple) or len(items) > ENTRIES_MOST:
        raise wrong(f"use a list of at most {ENTRIES_MOST} networks, such as 10.0.0.0/8")
    return tuple(_network(item) for item in items)


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        # ip_network would accept a number as an address.
        return ip_network(value) if isinstance(value, str) else ip_network("")
    except ValueError:
        raise wrong(f"{str(value)[:80]!r} is not a network: use e.g. 10.0.0.0/8, 192.168.1.7 or fd00::/8") from None


def _identifier(value: str) -> str:
    try:
        return checked(value)
    except Refused as refused:
        raise wrong(_advice(refused)) from None


def _node_id(value: str) -> str:
    return _identifier(value) if value else value


def _urls(value: str) -> str:
    if value:
        try:
            servers_of(value)
        except Refused as refused:
            raise wrong(f"{_advice(refused)}; empty starts a local server") from None
    return value


def _path(value: Path) -> Path:
    if value == Path() or "\0" in str(value):
        raise wrong("use the path of a file or directory, or leave the key out")
    try:
        return value.expanduser().absolute()
    except RuntimeError:
        raise wrong("write the full path: the home directory that `~` means is unknown here") from None


def _image(value: str) -> str:
    if value and not _is_image(value):
        raise wrong("use an image name, such as images.example/reviewer:1.2")
    return value


def _exit_codes(value: object) -> object:
    given = _listed(value, lambda text: text.replace(",", " ").split())
    if not isinstance(given, list | tuple) or len(given) > CODES:
        raise wrong("use a list of exit codes from 1 to 255, such as [3, 4]")
    codes = {str(code): code for code in range(1, CODES)}
    if any(type(one) not in (int, str) or str(one) not in codes for one in given):
        raise wrong("use exit codes from 1 to 255, such as [3, 4]")
    return tuple(codes[str(one)] for one in given)


def _labels(value: object) -> object:
    """Read labels: a mapping, or in an environment variable `name=value` with commas between."""
    given = value
    if isinstance(value, str):
        parts = (part.partition("=") for part in value.split(","))
        given = {name.strip(): text.strip() for name, _, text in parts}
    if not isinstance(given, dict) or len(given) > LABELS_MOST:
        raise wrong(f"use at most {LABELS_MOST} labels, such as {{zone: eu, disk: ssd}}")
    for name, text in given.items():
        if not isinstance(name, str) or not _is_label(name):
            raise wrong("use names of letters, digits and _, at most 64, such as {zone: eu}")
        if not isinstance(text, str) or not 0 < len(text) <= LABEL_CHARS or not text.isprintable():
            raise wrong(f"use texts of 1 to {LABEL_CHARS} printable characters, such as {{zone: eu}}; quote numbers")
    return given


def _node_filter(value: str) -> str:
    if value:
        try:
            condition(value)
        except Refused as refused:
            raise wrong(f"use a condition on node_id, runtime and labels.…: {refused.message}") from None
    return value


def _replicas(value: int) -> int:
    if value not in REPLICAS:
        raise wrong("use 1, 3 or 5: an even number survives no more failures than the odd one below it")
    return value


def _amount(value: object, info: ValidationInfo) -> object:
    if value is not None:
        try:
            Resources.parse({str(info.field_name): value})
        except Refused as refused:
            raise wrong(_advice(refused)) from None
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _advice(refused: Refused) -> str:
    """Return the part of a message that says what is allowed, without what was given."""
    return refused.message.rpartition(": ")[2]


AnyCase = BeforeValidator(_lower)


def _policy_name(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,100}:[A-Za-z_][A-Za-z0-9_]{0,60}", value):
        raise ValueError("is not of the form module:Class, such as policies.fleet:Cheapest")
    return value


if TYPE_CHECKING:
    Strategy = str
else:
    Strategy = Annotated[Literal[STRATEGIES], AnyCase]
PolicyName = Annotated[str, AfterValidator(_policy_name)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Location = Annotated[Path, AfterValidator(_path)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command), AfterValidator(_checked_command)]
ExitCodes = Annotated[tuple[int, ...], PlainValidator(_exit_codes)]
Labels = Annotated[dict[str, str], PlainValidator(_labels)]
NodeFilter = Annotated[str, AfterValidator(_node_filter)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], PlainValidator(_networks)]
Image = Annotated[str, AfterValidator(_image)]
NodeId = Annotated[str, AfterValidator(_node_id)]
Urls = Annotated[str, AfterValidator(_urls)]
Replicas = Annotated[int, AfterValidator(_replicas)]
Amount = Annotated[str | float | None, PlainValidator(_amount)]


class Section(BaseModel):
    """A mapping of known keys, frozen after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    IN_ORDER: ClassVar[tuple[tuple[str, str, float, str], ...]] = ()
    """Constraints between keys: the first, times the factor, must be at most the second; and why."""

    @model_validator(mode="before")
    @classmethod
    def _take_empty(cls, given: object) -> object:
        """Treat a section whose keys are all commented out as missing."""
        return {} if given is None else given

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_other_types(cls, value: object) -> object:
        return of_no_other_type(value)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        name = type(self).__name__.removesuffix("Settings").lower()
        for less, more, times, why in self.IN_ORDER:
            small, large = getattr(self, less), getattr(self, more)
            if small * times > large:
                least = f"{name}.{less} ({small:.10g})" if times == 1 else f"{times:g} × {name}.{less} ({small:.10g})"
                raise apart(f"{name}.{more} is {large:.10g}: use at least {least}, because {why}")
        return self


class Amounts(Section):
    """Amounts of compute as Kubernetes writes them; None if not set."""

    cpu: Amount = plain(None, "cores: 2, 0.5 or 500m")
    memory: Amount = plain(None, "bytes: 512Mi, 8Gi")
    gpu: Amount = plain(None, "whole GPUs")

    def given(self) -> dict[str, str | float]:
        """Return the amounts that are set, for `Resources.parse` or to override others."""
        return {key: value for key, value in self if value is not None}

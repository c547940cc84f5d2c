"""
The sections of the settings: every key with its default, its bounds, and what it is.

Nothing is read here: `settings` does that, tells the errors, and gives decisions their `Rules`. The names of the
requirements stand as they are there; of ours, the unit is the last word. Times are in seconds.
"""

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

from coordinator.deciders.rules import AgentType
from events.errors import Refused
from events.ids import checked
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

DAY_S = 86_400.0
TURN_BYTES_MOST = 900 * 1024
"""A commit and its headers must fit into one message: nats.conf allows 1 MB."""
REPLICAS = (1, 3, 5)
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ENTRIES_MOST = 256
TEXT_MOST = 4096

_is_url = re.compile(r"(nats|tls|ws|wss)://[^\s,]+").fullmatch
_is_image = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,511}").fullmatch


def number(default: float, least: float, most: float, about: str) -> Any:
    """Declare a number from *least* to *most*; a whole one where the annotation says `int`."""
    return Field(default=default, ge=least, le=most, description=about)


def plain(default: Any, about: str) -> Any:
    """Declare anything else."""
    return Field(default=default, description=about)


def wrong(right: str) -> PydanticCustomError:
    """Make the error of one key: *right* says what would be right."""
    return PydanticCustomError("wrong", "{right}", {"right": right})


def apart(problem: str) -> PydanticCustomError:
    """Make the error of keys that are right alone and do not go together: *problem* is the whole message."""
    return PydanticCustomError("apart", "{problem}", {"problem": problem})


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Give every key below *model*, dotted; `<name>` stands for a name of the user's own."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield f"{before}{name}", field
        else:
            yield from keys_of(section, f"{before}{name}.{'<name>.' if is_mapping(field) else ''}")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Give the section that a key, or each entry of a mapping, holds; None for a plain value."""
    annotation = get_args(field.annotation)[1] if is_mapping(field) else field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def is_mapping(field: FieldInfo) -> bool:
    """Say whether the keys below *field* are names of the user's own."""
    return get_origin(field.annotation) is dict


# --- kinds of values --------------------------------------------------------------------------------------------------


def _listed(value: object, split: Callable[[str], list[str]]) -> object:
    """Read a list the way an environment variable holds one: as JSON, or as text that *split* takes apart."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else split(value)
    except ValueError:
        raise wrong('use a list, in an environment variable as JSON: ["one","two"]') from None


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
        # A number would pass for an address.
        return ip_network(value) if isinstance(value, str) else ip_network("")
    except ValueError:
        raise wrong(
            f"{str(value)[:80]!r} in it is no network: use such as 10.0.0.0/8, 192.168.1.7 or fd00::/8"
        ) from None


def _identifier(value: str) -> str:
    try:
        return checked(value)
    except Refused as refused:
        raise wrong(_advice(refused)) from None


def _node_id(value: str) -> str:
    return _identifier(value) if value else value


def _urls(value: str) -> str:
    if value and not all(_is_url(one.strip()) for one in value.split(",")):
        raise wrong(
            "use nats://host:4222 or tls://host:4222, several with commas between; empty for a server of our own"
        )
    return value


def _path(value: Path) -> Path:
    if value == Path() or "\0" in str(value):
        raise wrong("use the path of a file or directory, or leave the key out")
    try:
        return value.expanduser().absolute()
    except RuntimeError:
        raise wrong("write the home directory out: which one `~` means is not known here") from None


def _image(value: str) -> str:
    if value and not _is_image(value):
        raise wrong("use the name of an image, such as images.example/reviewer:1.2")
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
    """Give what would be right out of a message that also says what was wrong."""
    return refused.message.rpartition(": ")[2]


AnyCase = BeforeValidator(_lower)
Identifier = Annotated[str, AfterValidator(_identifier)]
Location = Annotated[Path, AfterValidator(_path)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command), AfterValidator(_checked_command)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], PlainValidator(_networks)]
Amount = Annotated[str | float | None, PlainValidator(_amount)]


class Section(BaseModel):
    """A mapping of known keys; frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    IN_ORDER: ClassVar[tuple[tuple[str, str, float, str], ...]] = ()
    """What must hold between keys: the first, times the figure, is at most the second; and why."""

    @model_validator(mode="before")
    @classmethod
    def _take_empty(cls, given: object) -> object:
        """Take a section whose keys are all commented out for one that is not there."""
        return {} if given is None else given

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object) -> object:
        """Refuse what YAML makes of `yes` and `off`: no key is one, and Python takes `True` for 1."""
        if isinstance(value, bool):
            raise PydanticCustomError("boolean", "a boolean")
        return value

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        name = type(self).__name__.removesuffix("Settings").lower()
        for less, more, times, why in self.IN_ORDER:
            small, large = getattr(self, less), getattr(self, more)
            if small * times > large:
                least = f"{name}.{less} ({small:.10g})" if times == 1 else f"{times:g} × {name}.{less} ({small:.10g})"
                raise apart(f"{name}.{more} is {large:.10g}: use at least {least}, for {why}")
        return self


class Amounts(Section):
    """Amounts of compute as Kubernetes writes them; None where nothing is said."""

    cpu: Amount = plain(None, "cores: 2, 0.5 or 500m")
    memory: Amount = plain(None, "bytes: 512Mi, 8Gi")
    gpu: Amount = plain(None, "whole GPUs")

    def given(self) -> dict[str, str | float]:
        """Give what is said, for `Resources.parse` or to lay over something else."""
        return {key: value for key, value in self if value is not None}


# --- the sections -----------------------------------------------------------------------------------------------------


class AgentSettings(Section):
    """One entry of the catalogue: what runs when a container of this agent type starts."""

    image: Annotated[str, AfterValidator(_image)] = plain("", "image, for runtimes that have some")
    command: Command = plain((), "program and arguments; empty runs what the image says")
    limits: Amounts = plain(Amounts(), "most that one container of this type may ask for")
    when_cut_off: Literal["stop", "keep"] = plain(
        "stop", "what becomes of it when its node hears nothing from the coordinator"
    )
    stop_grace_s: float = number(10.0, 0.0, 3600.0, "from asking it to end to killing it")

    def agent_type(self) -> AgentType:
        """Give what decisions need of it."""
        return AgentType(
            command=self.command, image=self.image, when_cut_off=self.when_cut_off, stop_grace_s=self.stop_grace_s
        )


class ContainerSettings(Section):
    """Containers: how many, how big, how patiently."""

    max_containers: int = number(100, 1, 100_000, "containers that may stand at a time")
    default_timeout: float = number(300.0, 0.05, DAY_S, "seconds that a call to start or stop a container waits for it")
    health_check_interval: float = number(30.0, 0.05, DAY_S, "seconds between two looks at a container's health")
    resource_limits: Amounts = plain(Amounts(), "most that one container may ask for")
    start_timeout_s: float = number(
        30.0, 0.05, DAY_S, "a container that does not run so long after its start has failed"
    )
    restart_backoff_s: float = number(1.0, 0.0, 3600.0, "pause before the first restart; it doubles each time")
    restart_backoff_max_s: float = number(300.0, 0.0, DAY_S, "longest pause before a restart")
    restart_reset_s: float = number(600.0, 0.0, DAY_S, "after running so long, restarts count from none again")

    IN_ORDER = (("restart_backoff_s", "restart_backoff_max_s", 1, "the longest pause is no shorter than the first"),)


class SchedulerSettings(Section):
    """Tasks: how many, how often, how long they are lent to a worker."""

    max_concurrent_tasks: int = number(100_000, 1, 1_000_000, "tasks that may run at a time")
    task_timeout_check_interval: float = number(30.0, 0.05, 3600.0, "seconds at most between two looks at deadlines")
    default_strategy: Annotated[
        Literal["fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin"], AnyCase
    ] = plain("fifo", "order of tasks for claims that name none")
    max_retries: int = number(3, 0, 1000, "further attempts for tasks that say nothing of it")
    retry_backoff_s: float = number(1.0, 0.0, 3600.0, "pause before the first retry at most; it doubles each time")
    retry_backoff_max_s: float = number(60.0, 0.0, DAY_S, "longest pause before a retry")
    lease_s: float = number(30.0, 0.05, DAY_S, "an attempt that no heartbeat names for so long is given up")
    worker_timeout_s: float = number(60.0, 0.05, DAY_S, "a worker silent so long is lost")
    max_pending_tasks: int = number(1_000_000, 1, 10_000_000, "tasks that may wait at a time")
    payload_bytes_max: int = number(64 * 1024, 1024, 256 * 1024, "largest payload or result kept in the journal itself")
    claim_slots_max: int = number(1000, 1, 10_000, "tasks that one claim may ask for")
    claim_wait_max_s: float = number(60.0, 0.0, 3600.0, "how long a claim may wait for tasks")

    IN_ORDER = (
        ("retry_backoff_s", "retry_backoff_max_s", 1, "the longest pause is no shorter than the first"),
        ("lease_s", "worker_timeout_s", 0.5, "a worker beats three times in a lease and must not be lost between"),
    )


class EngineSettings(Section):
    """The writer's turn: how much it takes at once, how long it remembers."""

    turn_commands: int = number(2000, 1, 100_000, "commands in one turn")
    turn_bytes: int = number(
        512 * 1024, 64 * 1024, TURN_BYTES_MOST, "bytes of one commit; a server's max_payload is 1 MB"
    )
    intake_max: int = number(20_000, 1, 1_000_000, "commands that may wait for a turn; further ones are turned away")
    waiting_max: int = number(10_000, 1, 1_000_000, "questions that may wait for their answer to become true")
    wait_max_s: float = number(60.0, 0.05, 3600.0, "how long a question may wait")
    tick_s: float = number(0.5, 0.01, 60.0, "between two looks at what time has brought due")
    blind_after_s: float = number(
        2.0,
        0.1,
        3600.0,
        "after standing still for longer it calls nobody silent who may have been heard meanwhile",
    )
    query_wait_s: float = number(5.0, 0.05, 300.0, "how long a query waits for the turn it is to see")
    retention_s: float = number(3600.0, 0.0, 365 * DAY_S, "what ended longer ago leaves memory; the store keeps it")
    ended_kept: int = number(10_000, 0, 10_000_000, "ended things of one kind in memory; older ones leave it")
    text_chars_max: int = number(1024, 64, 65_536, "characters of a reason, message or other short text")


class NodeSettings(Section):
    """This machine as a node: what it offers and what runs containers on it."""

    node_id: Annotated[str, AfterValidator(_node_id)] = plain("", "name of the node; empty makes one from the host's")
    runtime: Annotated[Literal["process", "docker", "fake"], AnyCase] = plain("process", "what runs containers")
    capacity: Amounts = plain(Amounts(), "what the node offers, instead of what is found")
    cpu_overcommit: float = number(4.0, 0.1, 100.0, "times that each core is given away")
    node_lease_s: float = number(15.0, 0.2, 3600.0, "a node that was granted nothing for so long is cut off")
    sync_interval_s: float = number(1.0, 0.02, 60.0, "between two comparisons of what is with what should be")
    container_creds: Location | None = plain(None, "file of NATS credentials that containers are given")

    IN_ORDER = (("sync_interval_s", "node_lease_s", 3, "one lost message must not cut the node off"),)


class LeadershipSettings(Section):
    """The writer's lease."""

    ttl_s: int = number(12, 2, 3600, "after so long without renewal the server forgets who held the lease")
    renew_s: float = number(2.0, 0.5, 1800.0, "between two renewals")
    stop_after_s: float = number(9.6, 0.5, 3600.0, "a writer whose last granted renewal is older stops")
    fresh_s: float = number(6.0, 0.5, 3600.0, "a writer answers without a commit only after a younger renewal")

    IN_ORDER = (
        ("renew_s", "fresh_s", 1, "the next renewal comes before the last is too old to answer by"),
        ("fresh_s", "stop_after_s", 1, "a writer stops answering before it stops writing"),
        ("stop_after_s", "ttl_s", 1, "a writer stops before the server forgets that it led"),
        ("renew_s", "ttl_s", 2, "a lease is renewed at least twice in its time"),
    )


class NatsSettings(Section):
    """The NATS to use, and how."""

    url: Annotated[str, AfterValidator(_urls)] = Field(
        default="", repr=False, description="where NATS is; empty for a server of our own"
    )
    creds: Location | None = plain(None, "file of credentials")
    auth: Location | None = plain(None, "directory of 'coordinator auth': each process takes its role's from there")
    tls_ca: Location | None = plain(None, "file of certificates to trust")
    replicas: Annotated[int, AfterValidator(_replicas)] = number(1, 1, 5, "copies of each stream: 1, 3 or 5")
    connect_timeout_s: float = number(5.0, 0.05, 300.0, "one attempt to connect takes no longer")


class ClientSettings(Section):
    """The remote side of the doors."""

    # The writer remembers orders for ten minutes: one resent later than that could happen twice.
    call_timeout_s: float = number(30.0, 0.05, 300.0, "a call gives up after so long")
    attempt_timeout_s: float = number(2.0, 0.02, 300.0, "an attempt without answer is sent again after so long")
    discovery_refresh_s: float = number(5.0, 0.1, 3600.0, "between two looks at the loads of services chosen by load")
    discovery_stale_s: float = number(10.0, 2.0, 3600.0, "services not heard of for so long are asked for, not assumed")
    discovery_services_max: int = number(20_000, 1, 1_000_000, "with more services each discovery asks the coordinator")

    IN_ORDER = (("attempt_timeout_s", "call_timeout_s", 1, "a call consists of attempts"),)


class LogSettings(Section):
    """What is logged, and how it looks."""

    level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = plain(
        "info", "lines below it are dropped"
    )
    format: Annotated[Literal["auto", "console", "json"], AnyCase] = plain(
        "auto", "auto is console on a terminal, else json"
    )

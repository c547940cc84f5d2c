"""
The settings of a process: environment over YAML file over defaults, read once, then frozen.

    coordinator.yaml    scheduler: {max_retries: 5}
    environment         COORDINATOR_SCHEDULER__MAX_RETRIES=5      an empty value counts as not set

Nothing is taken silently: what is not a setting is refused with the nearest one that is, and one message lists all that
is wrong, each with its key, its value, where it stands, and what would be right. Importing this costs half a second, so
only processes that need settings do; decisions see `Rules` and the engine `Limits`, never this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args, get_origin

import yaml  # type: ignore[import-untyped]
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coordinator.deciders.rules import Rules
from coordinator.logs import redact
from coordinator.settings import sections
from coordinator.settings.feed import FeedSettings, FollowerSettings
from coordinator.settings.inbox import InboxSettings
from coordinator.settings.registry import RegistrySettings
from coordinator.settings.sections import AgentSettings, Identifier, Location, apart, is_mapping, keys_of, section_of
from coordinator.settings.security import SecuritySettings
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from coordinator.engine.limits import Limits

PREFIX = "COORDINATOR_"
PLAIN_NAMES = frozenset(
    PREFIX + name
    for name in (
        *("CONFIG", "URL", "PARENT_FD"),
        *("NATS_PORT", "NATS_STORE", "NATS_TOKEN", "HTTP_PORT"),
        *("AGENT_TYPE", "CONTAINER_ID", "NODE_ID", "HANDLERS", "WORKER_SLOTS"),  # in containers
    )
)
"""Variables of ours that are no settings: whatever else a process of ours reads or is given stands here."""

BUILT_IN = Rules().agents
"""The catalogue before any settings."""
FILE_NAME = "coordinator.yaml"
FILE_BYTES_MOST = 1024 * 1024
_EXAMPLE = "scheduler: {max_retries: 5}"

_DELIMITER = "__"
# Kubernetes tells every pod of a service named `coordinator` where it is, by variables under that name.
_is_injected = re.compile(
    r"COORDINATOR_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
).fullmatch

Keys = tuple[str | int, ...]


class Settings(BaseSettings):
    """All settings; what is given here stands where the file's content does, below the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=_DELIMITER,
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    namespace: Identifier = Field(default="coordination", description="first word of every subject and stream")
    home: Location | None = Field(default=None, description="directory of all state")
    container: sections.ContainerSettings = sections.ContainerSettings()
    registry: RegistrySettings = RegistrySettings()
    scheduler: sections.SchedulerSettings = sections.SchedulerSettings()
    agents: dict[str, AgentSettings] = Field(default={}, description="what each agent_type runs")
    engine: sections.EngineSettings = sections.EngineSettings()
    feed: FeedSettings = FeedSettings()
    node: sections.NodeSettings = sections.NodeSettings()
    inbox: InboxSettings = InboxSettings()
    leadership: sections.LeadershipSettings = sections.LeadershipSettings()
    nats: sections.NatsSettings = sections.NatsSettings()
    follower: FollowerSettings = FollowerSettings()
    client: sections.ClientSettings = sections.ClientSettings()
    security: SecuritySettings = SecuritySettings()
    log: sections.LogSettings = sections.LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @field_validator("agents")
    @classmethod
    def _complete(cls, given: dict[str, AgentSettings]) -> dict[str, AgentSettings]:
        """Add what is built in; what an entry of that name leaves out stays as it was."""
        catalogue = {name: AgentSettings() for name in BUILT_IN} | given
        for name, agent in catalogue.items():
            try:
                checked(name, "agents: the name")
            except Refused as refused:
                raise apart(refused.message) from None
            if agent.image or agent.command:
                continue
            if name not in BUILT_IN:
                raise apart(f"agents.{name} says neither image nor command: give at least one of them")
            catalogue[name] = agent.model_copy(update={"command": BUILT_IN[name].command})
        return catalogue

    @model_validator(mode="after")
    def _check(self) -> Self:
        payload, turn = self.scheduler.payload_bytes_max, self.engine.turn_bytes
        if payload * 2 > turn:
            why = f"use at least 2 × scheduler.payload_bytes_max ({payload}), for quoting makes a payload longer"
            raise apart(f"engine.turn_bytes is {turn}: {why}")
        return self

    def home_path(self) -> Path:
        """
        Give the directory of all state; it may not exist yet.

        Raises:
            Refused: neither the settings nor the system say where that is.
        """
        if self.home is not None:
            return self.home
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        try:
            # Its specification has a relative path ignored.
            return (state if state.is_absolute() else Path.home() / ".local/state") / "coordinator"
        except RuntimeError:
            raise Refused(f"there is no home directory: set {PREFIX}HOME", reason="no_home") from None

    def rules(self) -> Rules:
        """Give the numbers that decisions depend on."""
        container, registry, scheduler = self.container, self.registry, self.scheduler
        return Rules(
            agents={name: agent.agent_type() for name, agent in self.agents.items()},
            max_containers=container.max_containers,
            max_services=registry.max_services,
            max_pending_tasks=scheduler.max_pending_tasks,
            max_concurrent_tasks=scheduler.max_concurrent_tasks,
            max_retries=scheduler.max_retries,
            retry_backoff_s=scheduler.retry_backoff_s,
            retry_backoff_max_s=scheduler.retry_backoff_max_s,
            restart_backoff_s=container.restart_backoff_s,
            restart_backoff_max_s=container.restart_backoff_max_s,
            restart_reset_s=container.restart_reset_s,
            container_start_timeout_s=container.start_timeout_s,
            lease_s=scheduler.lease_s,
            worker_timeout_s=scheduler.worker_timeout_s,
            heartbeat_timeout_s=registry.heartbeat_timeout,
            deregister_after_s=registry.deregister_after_s,
            mass_silence_share=registry.mass_silence_share,
            mass_silence_least=registry.mass_silence_least,
            node_lease_s=self.node.node_lease_s,
            check_rise=registry.check_rise,
            check_fall=registry.check_fall,
            default_strategy=scheduler.default_strategy,
            claim_slots_max=scheduler.claim_slots_max,
            claim_wait_max_s=scheduler.claim_wait_max_s,
            payload_bytes_max=scheduler.payload_bytes_max,
            text_chars_max=self.engine.text_chars_max,
            cpu_overcommit=self.node.cpu_overcommit,
        )

    def limits(self) -> Limits:
        """Give the bounds of the engine."""
        from coordinator.engine.limits import Limits

        engine = self.engine
        return Limits(
            turn_commands=engine.turn_commands,
            turn_bytes=engine.turn_bytes,
            intake_max=engine.intake_max,
            inbox_max=self.inbox.waiting_max,
            waiting_max=engine.waiting_max,
            wait_max_s=engine.wait_max_s,
            # One look sees to everything that is due, so the shortest interval asked for holds for all of it.
            tick_s=min(engine.tick_s, self.scheduler.task_timeout_check_interval, self.registry.cleanup_interval),
            blind_after_s=engine.blind_after_s,
            retention_s=engine.retention_s,
            ended_kept=engine.ended_kept,
        )


KNOWN_KEYS = dict(keys_of(Settings))
"""Every key, dotted, with what is known of it; `<name>` stands for a name of the user's own."""


def load(config: Path | None = None) -> Settings:
    """
    Read the settings from the environment and *config*, or the file that `find_file` finds.

    Raises:
        Refused: the file cannot be read, or settings are wrong; the message lists every one of them.
    """
    path = find_file(config)
    file = _File("", {}, {}) if path is None else _read(path)
    known = {key: value for key, value in file.content.items() if key in Settings.model_fields}
    problems = [*_stray_names(), *(_told_unknown((key,), file) for key in file.content if key not in known)]
    try:
        settings = Settings(**known)
    except ValidationError as error:
        problems += [_told(details, file) for details in error.errors(include_url=False)]
    else:
        if not problems:
            return settings
    count = "" if len(problems) == 1 else f"{len(problems)} settings are wrong:\n  "
    raise Refused(count + "\n  ".join(problems), reason="bad_settings")


def find_file(config: Path | None = None) -> Path | None:
    """
    Give the file to read: *config*, `$COORDINATOR_CONFIG`, `./coordinator.yaml` or the user's own; None without any.

    Raises:
        Refused: the file that *config* or the variable names does not exist.
    """
    named = os.environ.get(f"{PREFIX}CONFIG", "")
    if config is not None or named:
        path, how = (config, "--config") if config is not None else (Path(named), f"${PREFIX}CONFIG")
        if not os.path.exists(path):  # noqa: PTH110  # Path.exists raises where a parent may not be read
            raise _unusable(path, f"does not exist: name one that does ({how})")
        return path
    own = os.environ.get("XDG_CONFIG_HOME", "")
    parent = own if os.path.isabs(own) else os.path.expanduser("~/.config")  # noqa: PTH111, PTH117  # raise without a home
    candidates = (Path(FILE_NAME), Path(parent) / "coordinator" / FILE_NAME)
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110


# --- the file ---------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    """A file's name and content, and the line where each key stands; empty when there is none."""

    name: str
    content: dict[Any, Any]
    lines: dict[Keys, int]


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MOST + 1)
        text = raw.decode("utf-8-sig")
        lines: dict[Keys, int] = {}
        _note_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, set(), path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be parsed")
        raise _unusable(path, f"is not YAML: {problem}", None if mark is None else mark.line + 1) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, an impossible date, ten thousand brackets
        raise _unusable(path, f"is not YAML in UTF-8: {str(error)[:200]}") from None
    if len(raw) > FILE_BYTES_MOST or not isinstance(content, dict | None):
        raise _unusable(path, f"is no mapping of at most {FILE_BYTES_MOST} bytes: write such as {_EXAMPLE!r}")
    return _File(str(path), content or {}, lines)


def _note_lines(node: Any, at: Keys, lines: dict[Keys, int], seen: set[int], path: Path) -> None:
    """Note where keys stand; refuse one that stands twice, for YAML takes the last in silence."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))  # by an alias a node may stand in many places, itself included
    for key, value in node.value:
        here, line = (*at, str(key.value)), key.start_mark.line + 1
        if here in lines:
            raise _unusable(path, f"gives {_dotted(here)} again, which line {lines[here]} has: remove one", line)
        lines[here] = line
        _note_lines(value, here, lines, seen, path)


def _unusable(path: Path, problem: str, line: int | None = None) -> Refused:
    where = "" if line is None else f" line {line}"
    return Refused(f"config file {path}{where} {redact(problem)}", reason="bad_config")


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _stray_names() -> Iterator[str]:
    """Tell of variables that look like ours and are none."""
    known = [*map(_variable, KNOWN_KEYS), *PLAIN_NAMES]
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in PLAIN_NAMES or _is_injected(upper):
            continue
        head, *rest = upper.removeprefix(PREFIX).lower().split(_DELIMITER)
        field = Settings.model_fields.get(head)
        # What is below a section is looked at with everything else.
        if field is None or (rest and section_of(field) is None):
            nearest = get_close_matches(upper, known, n=1, cutoff=0.0)[0]
            yield f"${redact(name)} is not a setting: the nearest is ${nearest}"


def _told_unknown(keys: Keys, file: _File) -> str:
    name = _dotted(keys)
    known = {leaf: key for key in KNOWN_KEYS for leaf in (key.rpartition(".")[2], key)}
    known |= {section: section for section in Settings.model_fields}
    nearest = known[get_close_matches(name, known, n=1, cutoff=0.0)[0]]
    return f"{name} is not a setting{_where(keys, file)}: the nearest is {nearest}"


def _told(details: ErrorDetails, file: _File) -> str:
    """Tell one problem: the key, its value, where it stands, what would be right."""
    keys = tuple(key for key in details["loc"] if key != "[key]")
    context: dict[str, Any] = details.get("ctx", {})
    if details["type"] == "apart":
        return str(context["problem"])
    if details["type"] in {"extra_forbidden", "invalid_key"}:
        return _told_unknown(keys, file)
    field = _field_at(keys)
    right = str(context["right"]) if details["type"] == "wrong" else _right(keys, field)
    # Where a URL belongs, whatever stands there may be a token.
    shown = "not right" if keys == ("nats",) or not field.repr else _shown(details["input"])[:160]
    return f"{_dotted(keys)} is {shown}{_where(keys, file)}: {right}"


def _right(keys: Keys, field: FieldInfo) -> str:
    """Say what is right for *field*, from how it is declared."""
    section = section_of(field)
    if section is not None:
        name = ".<name>" if is_mapping(field) and len(keys) == 1 else ""
        return f"it is a section: set its keys, such as {_dotted(keys)}{name}.{next(iter(section.model_fields))}"
    bounds = {side: getattr(bound, side) for bound in field.metadata for side in ("ge", "le") if hasattr(bound, side)}
    if bounds:
        kind = "a whole number" if field.annotation is int else "a number"
        use = f"{kind} from {bounds['ge']:.10g} to {bounds['le']:.10g}"
    elif get_origin(field.annotation) is Literal:
        use = " or ".join(get_args(field.annotation))
    elif get_origin(field.annotation) is tuple:
        use = "a list of texts"
    else:
        use = "text, quoted if YAML reads it otherwise" if field.annotation is str else "a path"
    return f"use {use} ({field.description})"


def _field_at(keys: Keys) -> FieldInfo:
    """Find the setting that *keys* lead to, or into where the last of them are places in a list."""
    field, is_name = Settings.model_fields[str(keys[0])], False
    for key in keys[1:]:
        is_name = is_mapping(field) and not is_name
        section = None if is_name else section_of(field)
        field = section.model_fields[str(key)] if section is not None else field
    return field


def _where(keys: Keys, file: _File) -> str:
    """Say which variable or line holds what *keys* lead to, or the nearest thing around it."""
    parts = tuple(str(key) for key in keys)
    around = [parts[:length] for length in range(len(parts), 0, -1)]
    names = {name.upper(): name for name, value in os.environ.items() if value}
    for at in around:
        if (name := _variable(".".join(at))) in names:
            return f" (${names[name]})"
    line = next((file.lines[at] for at in around if at in file.lines), None)
    return "" if line is None else f" ({file.name} line {line})"


class _Shortened(Repr):
    """Shows any value in a few words, a credential in none."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)


_shown = _Shortened().repr


def _dotted(keys: Keys) -> str:
    return redact(".".join(str(key) if str(key).isprintable() else ascii(key) for key in keys))[:200]


def _variable(key: str) -> str:
    return f"{PREFIX}{key.replace('.', _DELIMITER)}".upper()

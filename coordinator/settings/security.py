"""The section `security` of the settings: who may do what, and how much; `authorization` applies it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from coordinator.deciders.submit_rules import worker_filter_of
from coordinator.settings.fields import ENTRIES_MOST, Section, apart, plain, wrong
from events.errors import Refused
from events.ids import checked
from projections.filters import FILTER_CHARS_MAX, LIST_MAX

if TYPE_CHECKING:
    from coordinator.deciders.rules import TaskRule
    from coordinator.security.authorization import Quota, Rule

ALL = "*"
TASK_NAME_CHARS_MAX = 128
_is_pattern = re.compile(r"[A-Za-z0-9_*-]{1,128}").fullmatch


def _words(value: object) -> object:
    """Parse a list from an environment variable: words separated by commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _command_names(value: tuple[str, ...]) -> tuple[str, ...]:
    from coordinator.commands import BY_SUBJECT

    known = [f"{kind}.{verb}" for kind, verb in BY_SUBJECT]
    known += [ALL, *sorted({f"{kind}.{ALL}" for kind, _ in BY_SUBJECT})]
    for one in value[:ENTRIES_MOST]:
        if one not in known:
            nearest = get_close_matches(one, known, n=1, cutoff=0.0)[0]
            raise wrong(f"{one[:80]!r} is not a command: the nearest is {nearest!r}; * allows all, task.* all of tasks")
    return value[:ENTRIES_MOST]


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value:
        if one != ALL:
            _name(one)
    return value


def _name(value: str) -> str:
    try:
        return checked(value)
    except Refused as refused:
        raise wrong(refused.message) from None


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
CommandNames = Annotated[Words, AfterValidator(_command_names)]
Names = Annotated[Words, AfterValidator(_names)]


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Accept ids in which * stands for any text."""
    for one in _some(value):
        if not _is_pattern(one):
            raise wrong(f"{one[:80]!r} is not a name: use letters, digits, _ and -, and * for any text")
    return value


def _text_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in _some(value):
        if not 0 < len(one) <= TASK_NAME_CHARS_MAX or not one.isprintable():
            raise wrong(
                f"{one[:80]!r} is not a name of tasks: use 1 to {TASK_NAME_CHARS_MAX} characters, * for any text"
            )
    return value


def _names_only(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value[: LIST_MAX + 1]:
        _name(one)
    if len(value) > LIST_MAX:
        raise wrong(f"use at most {LIST_MAX} names")
    return value


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(value) <= ENTRIES_MOST:
        raise wrong(f"use 1 to {ENTRIES_MOST} names, or leave the key out, which means all")
    return value


Patterns = Annotated[Words, AfterValidator(_patterns)]
TextPatterns = Annotated[Words, AfterValidator(_text_patterns)]
NamesOnly = Annotated[Words, AfterValidator(_names_only)]


def _bound(most: float, about: str) -> Any:
    return Field(default=None, ge=0, le=most, description=f"{about}; not set means no limit")


class QuotaSettings(Section):
    """Limits of one source or tenant."""

    max_pending_tasks: int | None = _bound(10_000_000, "tasks that may be pending at a time")
    max_pending_bytes: int | None = _bound(
        8 * 1024 * 1024 * 1024, "bytes of the payloads, of more than 256 characters, of tasks that have not ended"
    )
    max_services: int | None = _bound(1_000_000, "services that may be registered at a time")
    max_containers: int | None = _bound(100_000, "containers that may stand at a time")
    max_sessions: int | None = _bound(100_000, "sessions that may be open at a time")
    max_workers: int | None = _bound(100_000, "workers that may be registered at a time")
    max_pools: int | None = _bound(1000, "resource pools that it may define")
    max_allocations: int | None = _bound(5_000_000, "shares of pools that it may hold at a time")
    max_schedules: int | None = _bound(100_000, "schedules that it may have at a time")
    submits_per_s: float | None = Field(
        default=None, ge=0.001, le=1_000_000, description="tasks submitted per second over RPC; not set means no limit"
    )
    submit_burst: int = Field(
        default=100, ge=1, le=1_000_000, description="tasks that may be submitted at once after a pause"
    )

    def quota(self) -> Quota:
        """Return it as decisions use it."""
        from coordinator.security.authorization import FREE, Quota

        quota = Quota(
            max_pending_tasks=self.max_pending_tasks,
            max_pending_bytes=self.max_pending_bytes,
            max_services=self.max_services,
            max_containers=self.max_containers,
            max_sessions=self.max_sessions,
            max_workers=self.max_workers,
            max_pools=self.max_pools,
            max_schedules=self.max_schedules,
            max_allocations=self.max_allocations,
            submits_per_s=self.submits_per_s,
            submit_burst=self.submit_burst,
        )
        is_bound = quota != Quota(submit_burst=self.submit_burst)
        return quota if is_bound else FREE


class SourceSettings(QuotaSettings):
    """What one source may do, for all users that send under its name."""

    may: CommandNames = plain((ALL,), "commands such as task.submit; task.* for all of tasks, * for all")
    tenants: Names = plain((ALL,), "tenants it may act for; * for all")

    def rule(self) -> Rule:
        """Return it as decisions use it."""
        from coordinator.commands import COMMANDS
        from coordinator.security.authorization import Rule

        may = None
        if ALL not in self.may:
            may = frozenset(
                one
                for one in COMMANDS.values()
                if f"{one.KIND}.{one.VERB}" in self.may or f"{one.KIND}.{ALL}" in self.may
            )
        return Rule(may=may, tenants=None if ALL in self.tenants else frozenset(self.tenants), quota=self.quota())


class TaskRuleSettings(Section):
    """Tasks that some users may submit, and who runs them."""

    users: Patterns = plain((ALL,), "sources that may submit them: names, with * for any text")
    tenants: Patterns = plain((ALL,), "tenants that they may submit them for, likewise")
    task_names: TextPatterns = plain((ALL,), "names of these tasks, likewise")
    queues: Patterns = plain((ALL,), "queues that these tasks may wait in, likewise")
    agent_types: NamesOnly = plain((), "the agents whose workers may run them; not set means all workers")
    nodes: NamesOnly = plain((), "the nodes whose workers may run them; not set means all workers")

    def rule(self, name: str) -> TaskRule:
        """Return it as decisions use it."""
        from coordinator.deciders.rules import TaskRule

        return TaskRule(
            name=name,
            users=self.users,
            tenants=self.tenants,
            task_names=self.task_names,
            queues=self.queues,
            agent_types=self.agent_types,
            nodes=self.nodes,
        )


class SecuritySettings(Section):
    """Who may do what; a source named after a role, such as worker-w1, has the role's rights unless listed here."""

    default: SourceSettings = SourceSettings()
    sources: dict[str, SourceSettings] = plain({}, "what each source may do")
    tenants: dict[str, QuotaSettings] = plain({}, "limits of each tenant, for all sources together")
    tasks: dict[str, TaskRuleSettings] = plain(
        {}, "who may submit which tasks; the first rule that a submit meets decides, and one that meets none is refused"
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for table, names in (("sources", self.sources), ("tenants", self.tenants), ("tasks", self.tasks)):
            for name in names:
                try:
                    checked(name, f"security.{table}: the name")
                except Refused as refused:
                    raise apart(refused.message) from None
        for name, one in self.tasks.items():
            size = len(worker_filter_of(one.rule(name)))
            if size > FILTER_CHARS_MAX:
                raise apart(
                    f"security.tasks.{name} names agent_types and nodes that are {size} characters as a filter of "
                    f"workers: use at most {FILTER_CHARS_MAX}, as by fewer names"
                )
        return self

"""
The process of a coordinator: builds it from settings and runs it until it is stopped.

Only here are the settings of a coordinator turned into `Rules`, `Limits` and the other values that its parts take.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.deciders.rules import Limits, Rules
from coordinator.doors.inbox import InboxLimits
from coordinator.home import Home
from coordinator.journal.high_water import FILE
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.own_process.memory import COORDINATOR, be_expendable, keep_freed
from coordinator.own_process.priority import come_first
from coordinator.processes.credentials import credentials
from coordinator.processes.program import HANDOVER_S, Program, collect_seldom
from coordinator.security.authorization import AccessRules
from coordinator.settings.effects import without_effect
from coordinator.settings.security import SecuritySettings
from coordinator.stop_signals import stop_signal
from coordinator.task_groups import task_group
from coordinator.version import __version__
from events.resources import Resources

if TYPE_CHECKING:
    from coordinator.settings.model import Settings

log = structlog.get_logger(__name__)

GOODBYE_S = 3.0
"""How long a stopping coordinator may take for its last commit."""

_KEYS = {"heartbeat_timeout_s": "heartbeat_timeout", "container_start_timeout_s": "start_timeout_s"}
"""Rules whose setting has another name, from the requirements or because of its section."""


_OF_THEIR_OWN = frozenset({"agents", "resource_limits", "task_rules"})
"""Rules that come from more than one setting."""


def rules_of(settings: Settings) -> Rules:
    """Return the numbers that decisions depend on: each is the setting with its name, in whatever section."""
    sections = (settings.container, settings.registry, settings.scheduler, settings.node, settings.engine)
    given: dict[str, Any] = {key: value for section in sections for key, value in section}
    named = {name: given[_KEYS.get(name, name)] for name in Rules.__struct_fields__ if name not in _OF_THEIR_OWN}
    return Rules(
        agents={name: agent.agent_type() for name, agent in settings.agents.items()},
        resource_limits=Resources.parse(settings.container.resource_limits.given()),
        task_rules=tuple(rule.rule(name) for name, rule in settings.security.tasks.items()),
        **named,
    )


def limits_of(settings: Settings) -> Limits:
    """Return the limits of the engine."""
    given: dict[str, Any] = dict(settings.engine)
    # One check handles everything that is due, so the shortest of the intervals applies to all.
    tick_s = min(given["tick_s"], settings.scheduler.task_timeout_check_interval, settings.registry.cleanup_interval)
    given |= {"tick_s": tick_s, "inbox_max": settings.inbox.waiting_max}
    return Limits(**{name: given[name] for name in Limits.__struct_fields__})


def inbox_limits_of(settings: Settings) -> InboxLimits:
    """Return the limits of the inboxes' streams, and how they are read."""
    inbox = settings.inbox
    return InboxLimits(
        max_bytes=inbox.max_bytes,
        kept_s=inbox.max_age_s,
        max_msg_size_bytes=inbox.max_msg_size_bytes,
        replicas=settings.nats.replicas,
        discover_s=inbox.discover_s,
    )


def access_of(settings: Settings) -> AccessRules | None:
    """Return who may do what; None without users and rules, so that everybody may do everything."""
    security = settings.security
    is_usual = security.model_copy(update={"tasks": {}}) == SecuritySettings()
    if is_usual and settings.nats.creds is None and settings.nats.auth is None:
        return None
    return AccessRules(
        default=security.default.rule(),
        sources={name: one.rule() for name, one in security.sources.items()},
        tenants={name: one.quota() for name, one in security.tenants.items()},
    )


def instance_of(settings: Settings, *, url: str, name: str, home: Home | None = None) -> Instance:
    """Return the description of an instance; it keeps its high-water mark in *home*."""
    return Instance(
        url=url,
        name=name,
        seen_file=str(home.path / FILE) if home is not None else "",
        nats_store=str(home.nats_store) if home is not None else "",
        store_file=str(home.state_db) if home is not None else "",
        archive=str(settings.follower.archive) if settings.follower.archive is not None else "",
        version=__version__,
        namespace=settings.namespace,
        connect_timeout_s=settings.nats.connect_timeout_s,
        **credentials(settings, "coordinator"),
        replicas=settings.nats.replicas,
        rules=rules_of(settings),
        limits=limits_of(settings),
        inbox=inbox_limits_of(settings),
        access=access_of(settings),
        lease_ttl_s=settings.leadership.ttl_s,
        lease_renew_s=settings.leadership.renew_s,
        lease_fresh_s=settings.leadership.fresh_s,
        lease_stop_s=settings.leadership.stop_after_s,
    )


def log_without_effect(settings: Settings) -> None:
    """Log each setting that is set and has no effect."""
    for key, why in without_effect(settings):
        log.warning("setting_without_effect", key=key, why=why)


async def serve(settings: Settings, url: str, *, without_follower: bool = False) -> None:
    """
    Run a coordinator, and a follower in a process of its own, until a signal stops them.

    Raises:
        CoordinationError: another coordinator holds the home, or `Coordinator.run` ended with an error.
    """
    collect_seldom()
    keep_freed()
    be_expendable(COORDINATOR)
    come_first(settings.engine.niceness)
    log_without_effect(settings)
    home = Home(settings.home_path())
    with home.lock("coordinator", HANDOVER_S):
        coordinator = Coordinator(instance_of(settings, url=url, name=home.instance("coordinator"), home=home))
        async with stop_signal() as stop, task_group() as tasks:
            serving = tasks.create_task(coordinator.run())
            env = {**os.environ, "COORDINATOR_URL": url}
            follower = Program("follower", [sys.executable, "-P", "-m", "coordinator.cli", "follow"], env, None)
            following = None if without_follower else tasks.create_task(follower.keep_running())
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            coordinator.stop("stopped")
            # Without NATS the lease cannot be resigned; the next coordinator of this name takes it back.
            if not (await asyncio.wait([serving], timeout=GOODBYE_S))[0]:
                serving.cancel()
            stopping.cancel()
            if following is not None:
                await follower.stop()

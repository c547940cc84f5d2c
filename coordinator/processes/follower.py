"""
The process of a follower, built from settings: read model, feed, snapshots, and health checks of services.

`open_follower` is the follower without a process, for a program that runs all parts in one.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.follower.feed import FeedLimits
from coordinator.follower.feed_chain import ChainLimits
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.follower.shadows import run_shadow_reports
from coordinator.follower.snapshotter import SnapshotLimits
from coordinator.health.check_worker import run_health_checks
from coordinator.home import Home
from coordinator.own_process.memory import FOLLOWER, be_expendable, keep_freed
from coordinator.own_process.priority import yield_cpu
from coordinator.processes.credentials import credentials, patience
from coordinator.processes.program import HANDOVER_S, collect_seldom
from coordinator.stop_signals import stop_signal
from coordinator.task_groups import task_group
from projections.store.retention import Retention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.settings.model import Settings

DAY_S = 86_400.0


def feed_limits(settings: Settings) -> FeedLimits | None:
    """Return the limits of the feed; None when the feed is off."""
    section = settings.feed
    if section.mode == "none":
        return None
    return FeedLimits(
        max_age_s=section.max_age_s,
        max_bytes=section.max_bytes,
        replicas=settings.nats.replicas,
        chain=ChainLimits(window_messages=section.window_events, ack_timeout_s=section.ack_timeout_s),
        stand_by_s=section.stand_by_s,
    )


def snapshot_limits(settings: Settings) -> SnapshotLimits | None:
    """Return the limits of snapshots; None when snapshots are off."""
    section = settings.follower
    if section.snapshot_events == 0:
        return None
    return SnapshotLimits(
        every_events=section.snapshot_events, pause_s=section.snapshot_pause_s, kept=section.snapshots_kept
    )


def retention_of(settings: Settings) -> Retention:
    """Return how much the read model keeps."""
    return Retention(keep_s=settings.follower.keep_days * DAY_S, events=settings.follower.keep_events)


def checks_of(settings: Settings) -> dict[str, Any]:
    """Return what `run_health_checks` goes by, as keyword arguments."""
    registry = settings.registry
    return {
        "networks": registry.health_check_networks,
        "timeout_s": registry.health_check_timeout_s,
        "interval_s": registry.health_check_interval,
        "at_once": registry.health_checks_at_once,
        "detail_chars_max": settings.engine.text_chars_max,
    }


@asynccontextmanager
async def open_follower(
    settings: Settings, url: str, home: Home, client: Client, login: dict[str, Any], *, archive: Path | None = None
) -> AsyncIterator[Follower]:
    """Follow the journal into the store of *home*, check services and report through *client*, while the block runs."""
    async with (
        Follower.open(
            url,
            home.state_db,
            namespace=settings.namespace,
            limits=FollowerLimits(keep=retention_of(settings)),
            feed=feed_limits(settings),
            snapshots=snapshot_limits(settings),
            archive=archive,
            replicas=settings.nats.replicas,
            checks=home.checks_db,
            connect_timeout_s=settings.nats.connect_timeout_s,
            **login,
        ) as follower,
        task_group() as tasks,
    ):
        every_s = settings.follower.shadow_report_s
        working = [
            tasks.create_task(run_health_checks(client, **checks_of(settings))),
            tasks.create_task(run_shadow_reports(client, follower.compared, every_s=every_s)),
        ]
        try:
            yield follower
        finally:
            for task in working:
                task.cancel()


async def follow(settings: Settings, url: str) -> None:
    """
    Run a follower until a signal stops it, or it fails.

    Raises:
        CoordinationError: another follower holds the home, or the journal is damaged.
    """
    home = Home(settings.home_path())
    login = credentials(settings, "follower")
    collect_seldom()
    keep_freed()
    be_expendable(FOLLOWER)
    yield_cpu(settings.follower.niceness)
    with home.lock("follower", HANDOVER_S):
        async with (
            stop_signal() as stop,
            Client.open(url, namespace=settings.namespace, name="follower", **login, **patience(settings)) as client,
            open_follower(settings, url, home, client, login, archive=settings.follower.archive) as follower,
            task_group() as tasks,
        ):
            failing: asyncio.Task[Any] = tasks.create_task(follower.wait_failed())
            stopping: asyncio.Task[Any] = tasks.create_task(stop.wait())
            await asyncio.wait([failing, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (failing, stopping):
                task.cancel()

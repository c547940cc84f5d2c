"""
The table of services that a watcher keeps: frozen values by name and status, folded from notices by the journal's fold.

It has no clock and never waits. It must never hold a state that the fold would not produce: an event that does not fit
raises `Corrupt`, and the watcher then fetches the table again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.service import NO_PORT, ServiceView
from events.base import Position
from events.codec import seconds_of
from events.errors import Corrupt
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered
from projections.service import evolve
from projections.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordinator.commands.service import ServiceLoad
    from events.base import Envelope
    from events.service import ServiceStatus
    from projections.service import Service

    ByStatus = dict[ServiceStatus, tuple[ServiceView, ...]]


class ServiceTable:
    """The registered services, indexed by name."""

    def __init__(self, views: Iterable[ServiceView] = ()) -> None:
        self._views: dict[str, ServiceView] = {}
        self._names: dict[str, dict[str, None]] = {}
        self._sorted: dict[str, ByStatus] = {}
        for view in views:
            self._put(view)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, service_name: str) -> bool:
        return service_name in self._names

    def find(self, service_name: str, status: ServiceStatus) -> Sequence[ServiceView]:
        """Return the instances of that name and status that have an address, ordered by id."""
        by_status = self._sorted.get(service_name)
        if by_status is None:
            if service_name not in self._names:
                return ()  # not cached: the number of unknown names has no limit
            by_status = self._sorted[service_name] = self._sort(service_name)
        return by_status.get(status, ())

    def apply(self, envelopes: Iterable[Envelope]) -> set[str]:
        """
        Fold the events of one commit; return the names of the services that changed.

        Events that the table already contains are skipped: pages are read while the writer continues, so the table may
        be ahead of the notices.

        Raises:
            Corrupt: an event does not fit the state in the table, or its type is unknown to this release.
        """
        touched: set[str] = set()
        held: dict[str, bool] = {}
        for envelope in envelopes:
            event, time = envelope.data, seconds_of(envelope.time)
            if not isinstance(event, ServiceRegistered | ServiceHealthChanged | ServiceDeregistered):
                msg = f"{envelope.type} at {envelope.id} is not a service event that this release knows"
                raise Corrupt(msg)
            view = self._views.get(event.service_id)
            # Compare with the state before the commit: all its events have the same time, and several may concern one
            # service.
            if held.setdefault(event.service_id, view is not None and view.service.changed_at >= time):
                continue
            if view is None and not isinstance(event, ServiceRegistered):
                continue  # the service was deregistered before its page was read
            stamp = Stamp(Position.parse(envelope.id), time, envelope.tenant, envelope.actor)
            touched |= self._change(view, evolve(view.service if view is not None else None, event, stamp))
        return touched

    def renew_load(self, service_id: str, reported: ServiceLoad | None) -> None:
        """Set what a service last reported, such as its load. Everything else changes by notices only."""
        held = self._views.get(service_id)
        if held is not None and held.reported != reported:
            self._put(msgspec.structs.replace(held, reported=reported))

    def _change(self, before: ServiceView | None, after: Service) -> set[str]:
        names = {after.service_name}
        if before is not None and (after.is_ended or before.service.service_name != after.service_name):
            names.add(before.service.service_name)
            self._remove(before.service)
        if not after.is_ended:
            self._put(ServiceView(service=after, reported=before.reported if before is not None else None))
        return names

    def _put(self, view: ServiceView) -> None:
        service = view.service
        self._views[service.service_id] = view
        self._names.setdefault(service.service_name, {})[service.service_id] = None
        self._sorted.pop(service.service_name, None)

    def _remove(self, service: Service) -> None:
        del self._views[service.service_id]
        members = self._names[service.service_name]
        del members[service.service_id]
        if not members:
            del self._names[service.service_name]
        self._sorted.pop(service.service_name, None)

    def _sort(self, service_name: str) -> ByStatus:
        groups: dict[ServiceStatus, list[ServiceView]] = {}
        for service_id in sorted(self._names[service_name]):
            view = self._views[service_id]
            if view.service.port != NO_PORT:
                groups.setdefault(view.service.status, []).append(view)
        return {status: tuple(views) for status, views in groups.items()}

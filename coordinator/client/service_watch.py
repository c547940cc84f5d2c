"""
The services of the cluster, kept current in this process by watching.

    subscribe to `….services` → fetch all, page by page → fold each notice, as long as it follows on the one before

When a notice does not follow (one was lost, or another writer leads), or the connection was broken, the table is in
doubt, and all services are fetched again. Until then, and while no notices arrive, `find` returns the last known state,
and `stale_for_s` says how old it is. After `client.discovery_stale_s` without notices `find` returns None, and the
caller asks the coordinator instead. Loads are not events: they are fetched again for the names that callers choose by
load.

It must never return a state older than a command of this process that was answered, nor hold more services than its
limit.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

import msgspec
import structlog

from coordinator.client.service_list import PAGE, find_services
from coordinator.client.service_table import ServiceTable
from coordinator.commands.notices import NOTICE_EVERY_S, ServiceNotice
from coordinator.commands.service import DeregisterService, FindServices, HeartbeatService, RegisterService, ServiceLoad
from coordinator.commands.wire import value_of
from coordinator.ids import TimeOrderedIds
from coordinator.task_groups import task_group
from events import codec
from events.base import START, Position
from events.errors import CoordinationError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from coordinator.bus.subscription import Message
    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from coordinator.commands.service import ServiceView
    from coordinator.commands.wire import Answer
    from events.service import ServiceStatus

log = structlog.get_logger(__name__)

REFRESH_S = 5.0
STALE_S = 10.0
SERVICES_MAX = 20_000
PAGE_TIMEOUT_S = 10.0
SPREAD_S = 0.5
"""When all watchers must fetch at once, as after a take-over, they spread their fetches over this time."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""The range of pauses between fetches that fail, or whose table is in doubt again soon."""
TOO_MANY_PAUSE_S = 60.0
PENDING_MAX = 10_000
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""Notices kept while pages are fetched; with more of them the services are fetched again."""
NAMES_AT_ONCE = 10
NAME_MAX = 1000
"""Instances of one name whose loads are fetched: more do not fit into one answer."""

_ids = TimeOrderedIds()
_notices = msgspec.json.Decoder(ServiceNotice)


class _TooMany(CoordinationError):
    """There are more services than this process may keep"""


class ServiceWatch:
    """
    Watches the services of the cluster, from the first `find` on.

    `on_change` holds plain functions, called with the names of the services that a notice changed.

    Args:
        client: the connection to the coordinator.
        begin: runs a coroutine in the background, such as `App.start`.
        refresh_s: seconds between fetches of the loads, for names that callers choose by load.
        stale_s: seconds without notices after which `find` returns None.
        services_max: the number of services beyond which none are kept, and `find` returns None.
    """

    def __init__(
        self,
        client: Client,
        begin: Callable[[Coroutine[Any, Any, None]], object],
        *,
        refresh_s: float = REFRESH_S,
        stale_s: float = STALE_S,
        services_max: int = SERVICES_MAX,
    ) -> None:
        self.on_change: list[Callable[[set[str]], None]] = []
        self.fetches = 0
        """How many times all services were fetched."""
        self.ready = asyncio.Event()
        """Set once the services were fetched."""
        self._client = client
        self._begin = begin
        self._refresh_s = refresh_s
        self._stale_s = stale_s
        self._services_max = services_max
        self._clock = asyncio.get_running_loop().time
        self._has_begun = False
        self._table: ServiceTable | None = None
        self._reign = self._position = self._unseen = START
        self._heard_at = 0.0
        self._loads_at: dict[str, float] = {}
        self._fetched_at = 0.0
        self._by_load: set[str] = set()
        self._pending: list[ServiceNotice] | None = None
        self._pending_bytes = 0
        self._own_loads: dict[str, ServiceLoad] = {}
        self._doubt = asyncio.Event()
        self._spread = False

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client, **settings: Any) -> AsyncIterator[ServiceWatch]:
        """Watch while the block runs, starting at once instead of at the first `find`."""
        async with task_group() as tasks:
            watch = cls(client, tasks.create_task, **settings)
            watch._has_begun = True
            watching = tasks.create_task(watch.run())
            try:
                yield watch
            finally:
                watching.cancel()

    @property
    def stale_for_s(self) -> float:
        """Seconds since the table was last known to be current; 0 while it is current or not yet fetched."""
        if self._table is None:
            return 0.0
        silent_s = self._clock() - self._heard_at
        return silent_s if self._doubt.is_set() or silent_s > 2 * NOTICE_EVERY_S else 0.0

    def find(
        self, service_name: str, status: ServiceStatus, *, with_loads: bool = False
    ) -> Sequence[ServiceView] | None:
        """
        Return the instances of that name and status, ordered by id; None if the caller must ask the coordinator.

        With *with_loads*, return them only if their loads are not older than two refresh intervals.
        """
        table = self._table
        if table is None:
            self._begin_once()
            return None
        now = self._clock()
        if now - self._heard_at > self._stale_s or self._unseen > self._position:
            return None
        if with_loads and service_name in table:
            self._by_load.add(service_name)
            if now - self._loads_at.get(service_name, self._fetched_at) > 2 * self._refresh_s:
                return None
        return table.find(service_name, status)

    def ordered(self, command: Command) -> None:
        """Record an answered command of this process: from now on `find` returns no state older than its effect."""
        if isinstance(command, RegisterService | DeregisterService):
            self._unseen = max(self._unseen, self._client.position)
        elif isinstance(command, HeartbeatService):
            reported = {name: getattr(command, name) for name in ("load", "connections", "response_time_ms")}
            load = ServiceLoad(heard_s_ago=0.0, **reported)
            if self._pending is not None:
                self._own_loads[command.service_id] = load  # the page with this service may have been read earlier
            if self._table is not None:
                self._table.renew_load(command.service_id, load)

    def _begin_once(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._begin(self.run())

    # --- notices ------------------------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        try:
            notice = _notices.decode(message.data)
        except codec.UNREADABLE as error:
            log.warning("service_notice_unreadable", why=str(error)[:200])
            self._set_doubt()
            return
        if self._pending is None:
            self._follow(notice)
        elif len(self._pending) < PENDING_MAX and self._pending_bytes + len(message.data) <= PENDING_BYTES_MAX:
            self._pending.append(notice)
            self._pending_bytes += len(message.data)
        else:
            self._set_doubt()

    def _follow(self, notice: ServiceNotice) -> None:
        """Fold a notice that follows on the table's position; any other notice puts the table in doubt."""
        if self._table is None:
            return
        try:
            reign, position = Position.parse(notice.epoch), Position.parse(notice.position)
            previous = Position.parse(notice.previous)
            if reign < self._reign:
                return  # from a deposed writer that has not noticed yet
            if reign > self._reign or previous > self._position:
                log.debug("services_in_doubt", reign=notice.epoch, previous=notice.previous, held=str(self._position))
                self._set_doubt(spread=reign > self._reign)
                return
            if position > self._position:
                touched = self._table.apply(codec.decode(bytes(notice.events)))
                self._position = position
                if touched:
                    self._call_hooks(touched)
        except CoordinationError as error:
            log.warning("service_notice_rejected", why=error.message)
            self._set_doubt()
            return
        if not self._doubt.is_set():
            self._heard_at = self._clock()
        if len(self._table) > self._services_max:
            self._set_doubt()

    def _call_hooks(self, names: set[str]) -> None:
        for hook in tuple(self.on_change):
            try:
                hook(names)
            except Exception:  # an error in a hook must not stop the watch
                log.exception("service_hook_failed")

    def _set_doubt(self, *, spread: bool = False) -> None:
        self._spread = self._spread or (spread and not self._doubt.is_set())
        self._doubt.set()

    def _reconnected(self) -> None:
        self._set_doubt(spread=True)

    # --- fetching -----------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        bus = self._client.bus
        subscription = await bus.subscribe(self._client.subjects.services, self._take)
        bus.on_reconnect.append(self._reconnected)
        pause_s = 0.0
        self._doubt.set()
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._refresh_s):
                        await self._doubt.wait()
                if self._doubt.is_set():
                    await asyncio.sleep(pause_s + (SPREAD_S * _random_share() if self._spread else 0.0))
                    lasted = self._clock() - self._fetched_at > LONGEST_PAUSE_S
                    pause_s = 0.0 if await self._fetch() and lasted else _longer(pause_s)
                else:
                    await self._renew_loads()
        finally:
            self._table = None
            bus.on_reconnect.remove(self._reconnected)
            await subscription.unsubscribe()

    async def _fetch(self) -> bool:
        """Fetch all services and fold the notices received during the fetch; return whether the fetch succeeded."""
        self._spread = False
        self._doubt.clear()
        self._pending, self._pending_bytes = [], 0
        self._own_loads.clear()
        try:
            views, answer = await self._pages()
            reign, position = Position.parse(answer.epoch), Position.parse(answer.position)
        except CoordinationError as error:
            self._pending = None
            self._doubt.set()
            log.warning("services_fetch_failed", why=error.message)
            if isinstance(error, _TooMany):
                self._table = None
                await asyncio.sleep(TOO_MANY_PAUSE_S)
            return False
        self._table, pending = ServiceTable(views), self._pending
        for service_id, load in self._own_loads.items():
            self._table.renew_load(service_id, load)
        self._reign, self._position, self._pending = reign, position, None
        self._heard_at = self._fetched_at = self._clock()
        self._loads_at.clear()
        self.fetches += 1
        for notice in pending:
            self._follow(notice)
        self.ready.set()
        return True

    async def _pages(self) -> tuple[list[ServiceView], Answer]:
        """
        Return all services, and the answer with the first page: the services are as of its position or newer.

        Raises:
            CoordinationError: the coordinator did not answer, another instance took over during the fetch, or there are
                more services than the limit.
        """
        views: list[ServiceView] = []
        first: Answer | None = None
        page = PAGE
        while True:
            after = views[-1].service.service_id if views else ""
            question = FindServices(after=after, limit=page)
            answer = await self._client.answer(question, timeout_s=PAGE_TIMEOUT_S)
            try:
                found: list[ServiceView] = value_of(answer, question)
            except Refused as error:
                if error.reason != "too_large" or page == 1:
                    raise
                page //= 2  # a full page does not fit into a message
                continue
            first = first or answer
            if answer.epoch != first.epoch:
                raise Unavailable("another instance took over while services were fetched", reason="not_leading")
            views += found
            if len(views) > self._services_max:
                msg = f"more than {self._services_max} services are registered: raise client.discovery_services_max"
                raise _TooMany(msg)
            if len(found) < page:
                return views, first

    async def _renew_loads(self) -> None:
        """Fetch the loads of the names that callers chose by load since the last refresh."""
        names, self._by_load = sorted(self._by_load), set()
        for begin in range(0, len(names), NAMES_AT_ONCE):
            try:
                async with task_group() as tasks:
                    for name in names[begin : begin + NAMES_AT_ONCE]:
                        tasks.create_task(self._renew_loads_of(name))
            except CoordinationError as error:
                log.debug("loads_not_renewed", why=error.message)
                return

    async def _renew_loads_of(self, name: str) -> None:
        question = FindServices(service_name=name, limit=NAME_MAX)
        views = await find_services(self._client, question, timeout_s=PAGE_TIMEOUT_S)
        if self._table is not None:
            for view in views:
                self._table.renew_load(view.service.service_id, view.reported)
            self._loads_at[name] = self._clock()


def _longer(pause_s: float) -> float:
    """Double a pause, plus or minus a quarter, so that many watchers do not retry at the same time."""
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause_s) * (0.75 + 0.5 * _random_share()))


def _random_share() -> float:
    """Return a random number from 0 to 1."""
    return crc32(_ids.new("share").encode()) / 2**32

"""
The services of the cluster, kept in this process by watching.

    subscribe to `….services` → fetch all, page by page → fold each notice, as long as it follows on the one before

A notice that does not follow (one was lost, or another writer leads), or a connection that was broken, puts everything
in doubt, and all is fetched anew. Until then, and for as long as nothing is heard, the last known state is given, with
`stale_for_s`; when that is longer than `client.discovery_stale_s`, nothing is: whoever asks then asks the coordinator.
Loads are no events: they are asked for again, of the names that somebody chose by load.

It must never give what an order of this process has changed since, nor grow beyond its bound.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

import msgspec
import structlog

from coordinator.client.service_list import PAGE
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
"""When all watchers must fetch anew at once, as at a take-over, they do so spread over this time."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""Between attempts to fetch that fail, or do not last."""
TOO_MANY_PAUSE_S = 60.0
PENDING_MAX = 10_000
"""Notices kept while pages are fetched; beyond it the fetch begins anew."""
NAMES_AT_ONCE = 10
NAME_MAX = 1000
"""Instances of one name whose loads are asked for: more do not fit into one answer."""

_ids = TimeOrderedIds()
_notices = msgspec.json.Decoder(ServiceNotice)


class _TooMany(CoordinationError):
    """There are more services than may be kept here"""


class ServiceWatch:
    """
    Watches the services through *client*; *begin* runs its work, from the first `find` on.

    `on_change` holds plain functions, called with the names of the services that a notice changed.

    Args:
        client: the connection to the coordinator.
        begin: runs a coroutine in the background, such as `App.start`.
        refresh_s: how often loads are asked for, of names that somebody chooses among by load.
        stale_s: after so long without word nothing is given any more.
        services_max: with more services nothing is kept.
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
        """How often all services were fetched."""
        self.ready = asyncio.Event()
        """Set once services are known."""
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
        self._own_loads: dict[str, ServiceLoad] = {}
        self._doubt = asyncio.Event()
        self._spread = False

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client, **settings: Any) -> AsyncIterator[ServiceWatch]:
        """Watch while the block runs, beginning at once."""
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
        """For how long what is held is not known to be right, in seconds; 0 while nothing seems amiss."""
        if self._table is None:
            return 0.0
        silent_s = self._clock() - self._heard_at
        return silent_s if self._doubt.is_set() or silent_s > 2 * NOTICE_EVERY_S else 0.0

    def find(
        self, service_name: str, status: ServiceStatus, *, with_loads: bool = False
    ) -> Sequence[ServiceView] | None:
        """
        Give the instances of that name and status in the order of their ids; None when the coordinator is to be asked.

        *with_loads* only gives them when their loads are not older than two refreshes.
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
        """Give nothing from here on that is older than what *command* did: an order of this process, answered."""
        if isinstance(command, RegisterService | DeregisterService):
            self._unseen = max(self._unseen, self._client.position)
        elif isinstance(command, HeartbeatService):
            said = {name: getattr(command, name) for name in ("load", "connections", "response_time_ms")}
            load = ServiceLoad(heard_s_ago=0.0, **said)
            if self._pending is not None:
                self._own_loads[command.service_id] = load  # the page with it may have been read before
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
            self._doubt_it()
            return
        if self._pending is None:
            self._follow(notice)
        elif len(self._pending) < PENDING_MAX:
            self._pending.append(notice)
        else:
            self._doubt_it()

    def _follow(self, notice: ServiceNotice) -> None:
        """Fold a notice that follows on what is held; any other one puts that in doubt."""
        if self._table is None:
            return
        try:
            reign, position = Position.parse(notice.epoch), Position.parse(notice.position)
            previous = Position.parse(notice.previous)
            if reign < self._reign:
                return  # of a writer that was deposed and has not noticed yet
            if reign > self._reign or previous > self._position:
                log.debug("services_in_doubt", reign=notice.epoch, previous=notice.previous, held=str(self._position))
                self._doubt_it(spread=reign > self._reign)
                return
            if position > self._position:
                touched = self._table.apply(codec.decode(bytes(notice.events)))
                self._position = position
                if touched:
                    self._tell(touched)
        except CoordinationError as error:
            log.warning("service_notice_not_folded", why=error.message)
            self._doubt_it()
            return
        if not self._doubt.is_set():
            self._heard_at = self._clock()
        if len(self._table) > self._services_max:
            self._doubt_it()

    def _tell(self, names: set[str]) -> None:
        for hook in tuple(self.on_change):
            try:
                hook(names)
            except Exception:  # whoever watches must not end the watching
                log.exception("service_watcher_failed")

    def _doubt_it(self, *, spread: bool = False) -> None:
        self._spread = self._spread or (spread and not self._doubt.is_set())
        self._doubt.set()

    def _reconnected(self) -> None:
        self._doubt_it(spread=True)

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
                    await asyncio.sleep(pause_s + (SPREAD_S * _share() if self._spread else 0.0))
                    lasted = self._clock() - self._fetched_at > LONGEST_PAUSE_S
                    pause_s = 0.0 if await self._fetch() and lasted else _longer(pause_s)
                else:
                    await self._renew_loads()
        finally:
            self._table = None
            bus.on_reconnect.remove(self._reconnected)
            await subscription.unsubscribe()

    async def _fetch(self) -> bool:
        """Fetch all services, fold what came meanwhile, and say whether that went well."""
        self._spread = False
        self._doubt.clear()
        self._pending = []
        self._own_loads.clear()
        try:
            views, answer = await self._pages()
            reign, position = Position.parse(answer.epoch), Position.parse(answer.position)
        except CoordinationError as error:
            self._pending = None
            self._doubt.set()
            log.warning("services_not_watched", why=error.message)
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
        Give all services, and the answer that held the first of them: they are as of its position, or newer.

        Raises:
            CoordinationError: the coordinator did not answer, another one took over meanwhile, or they are too many.
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
            except Refused:
                if page == 1:
                    raise
                page //= 2  # so many do not fit into a message
                continue
            first = first or answer
            if answer.epoch != first.epoch:
                raise Unavailable("another coordinator took over while services were fetched", reason="not_leading")
            views += found
            if len(views) > self._services_max:
                msg = f"there are over {self._services_max} services: raise client.discovery_services_max"
                raise _TooMany(msg)
            if len(found) < page:
                return views, first

    async def _renew_loads(self) -> None:
        """Ask for the loads of the names that somebody chose among by load since the last time."""
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
        views: list[ServiceView] = await self._client.execute(question, timeout_s=PAGE_TIMEOUT_S)
        if self._table is not None:
            for view in views:
                self._table.renew_load(view.service.service_id, view.reported)
            self._loads_at[name] = self._clock()


def _longer(pause_s: float) -> float:
    """Double a pause, give or take a quarter, so that many watchers do not keep step."""
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause_s) * (0.75 + 0.5 * _share()))


def _share() -> float:
    """Draw a number from 0 to 1."""
    return crc32(_ids.new("share").encode()) / 2**32

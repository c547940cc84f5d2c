"""
Which waiting request of a pool gets a share next, whose shares it may take, and why a request waits. Pure.

The order: a request that has waited `AGEING_S` seconds longer counts as one priority higher, so none waits for ever
behind an endless stream of others. For each request that waits for room, what it asks for is set aside: one behind it
gets a share only of what is left then, so it may pass, but never delays one before it. Who waits for its own quota has
nothing set aside but in that quota.
"""

from __future__ import annotations

from functools import reduce
from itertools import chain, islice
from operator import or_
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from events.pool import Placing
from events.resources import NONE, Resources
from projections.pool import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from projections.pool import Pool, Request

AGEING_S = 60.0
MOST_HOLDERS = 10
LEAST = -(2**53)
MOST_VICTIMS = 200
"""A request takes at most so many shares from others: a commit is limited in size."""
ALL = ""
"""The account of everything that is held of a pool."""
_WHOLE = ("",)
"""The parts of a pool that has none."""


class ShareWait(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Why a request waits: its place in the order, a stable code, and who holds what it lacks, at most 10.

    The codes: `room` (others hold it), `behind` (it is set aside for requests before it), `quota` (its tenant or source
    has as much as it may), `never` (no part of the pool is large enough). `until` is when it times out.
    """

    request_id: str
    place: int
    code: str
    text: str
    held_by: tuple[str, ...] = ()
    until: float | None = None


class Place(NamedTuple):
    """What a request meets: the part of the pool that it fits into; else a code and the limit that it meets."""

    part: str | None
    code: str = ""
    account: str = ""


_SPENT = Place(None, "room")


def _all_of_them(_: str) -> bool:
    return True


def _none_of_them(_: str) -> bool:
    return False


def order(request: Request) -> float:
    """Return where a request stands among those that wait: the least is first, equals in the order of their coming."""
    return request.asked_at - request.priority * AGEING_S


def accounts(thing: Allocation | Request, part: str) -> Iterator[str]:
    """Yield the accounts in which a share counts, or would count in *part*."""
    yield ALL
    if part:
        yield f"part:{part}"
    yield f"tenant:{thing.tenant}"
    yield f"source:{thing.source}"


def held_in(shares: Iterable[Allocation]) -> dict[str, Resources]:
    """Return what is held in each account."""
    held: dict[str, Resources] = {}
    for share in shares:
        for account in accounts(share, share.part):
            held[account] = held.get(account, NONE) + share.resources
    return held


def covers(room: Resources, asked: Resources) -> bool:
    """Return whether there is enough of all that is asked for; of other kinds there may be too little."""
    return asked.fits_in(_kinds(asked, room))


def portion(some: Resources, whole: Resources) -> float:
    """Return the largest portion that *some* is of any kind of *whole*."""
    pairs = (
        (some.cpu_millis, whole.cpu_millis),
        (some.memory_bytes, whole.memory_bytes),
        (some.gpus, whole.gpus),
    )
    return max((part / all_of_it for part, all_of_it in pairs if all_of_it), default=0.0)


def _kinds_of(resources: Resources) -> int:
    """Return the kinds of which there is something, as bits."""
    return (resources.cpu_millis > 0) | (resources.memory_bytes > 0) << 1 | (resources.gpus > 0) << 2


def _kinds(asked: Resources, room: Resources) -> Resources:
    """Return the room of the kinds that are asked for."""
    return Resources(
        cpu_millis=room.cpu_millis if asked.cpu_millis else 0,
        memory_bytes=room.memory_bytes if asked.memory_bytes else 0,
        gpus=room.gpus if asked.gpus else 0,
    )


class Ledger:
    """What of a pool is held, and what is set aside for requests that wait; *held* by account, which stays as it is."""

    def __init__(self, pool: Pool, held: Mapping[str, Resources]) -> None:
        self.pool = pool
        self._held = held
        self._changed: dict[str, Resources] = {}
        self._aside: dict[str, Resources] = {}

    def take(self, request: Request | Allocation, part: str) -> None:
        """Count a share."""
        for account in accounts(request, part):
            self._changed[account] = self._held_of(account) + request.resources

    def give_back(self, share: Allocation) -> None:
        """Count a share no longer."""
        for account in accounts(share, share.part):
            self._changed[account] = self._held_of(account) - share.resources

    def settle(self, waiting: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        """Yield each request that gets a share now, with the part of the pool, in order."""
        for request, place in self._walk(waiting, is_exact_of=_none_of_them):
            if place.part is not None:
                yield request, place.part

    def waits(self, shares: Iterable[Allocation], waiting: Iterable[Request], only: str = "") -> Iterator[ShareWait]:
        """Yield why each request waits, or *only* one, the first one first; those that would get a share have room."""
        before: list[str] = []
        oldest = sorted(shares, key=lambda one: (one.allocated_at, one.request_id))
        wanted = only.__eq__ if only else _all_of_them
        for number, (request, place) in enumerate(self._walk(waiting, is_exact_of=wanted), 1):
            if wanted(request.request_id):
                yield self._wait(request, place, number, oldest, before)
            if place.code in ("room", "behind"):
                before.append(request.request_id)

    def takers(self, waiting: Iterable[Request]) -> Iterator[Request]:
        """
        Yield, in order, those that may take the shares of others.

        None does while another one waits before it that has at least its priority, but for those that wait only for
        their quota, which is not its own.
        """
        requests = tuple(waiting)
        if not any(one.preempts for one in requests):
            return
        highest: dict[str, int] = {}
        for request in sorted(requests, key=order):
            quota = self._over_quota(request)
            limited_by = [ALL, *(account for account, _ in self._quotas(request))]
            if request.preempts and not quota and all(request.priority > highest.get(one, LEAST) for one in limited_by):
                yield request
            blocked = quota or ALL
            highest[blocked] = max(highest.get(blocked, LEAST), request.priority)

    def victims(self, request: Request, shares: Iterable[Allocation]) -> tuple[str, tuple[Allocation, ...]] | None:
        """
        Return the part in which a request fits if these shares are taken: none that is not needed, lowest first.

        None: it does not even fit then.
        """
        lower = sorted(
            (one for one in shares if one.priority < request.priority),
            key=lambda one: (one.priority, -one.allocated_at, one.request_id),
        )
        by_part: dict[str, list[Allocation]] = {}
        for share in lower:
            by_part.setdefault(share.part if self.pool.parts else "", []).append(share)
        found = [(part, taken) for part in self._parts(request) if (taken := self._taken(request, part, by_part))]
        if not found:
            return None
        return min(found, key=lambda one: ([share.priority for share in reversed(one[1])], len(one[1])))

    def is_possible(self, request: Request) -> bool:
        """Return whether a request could get a share if nobody else held one."""
        asked = request.resources
        return bool(self._parts(request)) and all(_within(asked, most, asked) for _, most in self._quotas(request))

    def _walk(
        self, waiting: Iterable[Request], *, is_exact_of: Callable[[str], bool]
    ) -> Iterator[tuple[Request, Place]]:
        """
        Yield each request with what it meets, in order, and set aside what it asks for.

        When nothing is left of all kinds that one asks for, it gets no share and has nothing to set aside: of many that
        wait, most are passed over at once, if the exact reason is not asked for.
        """
        self._aside, spent = {}, 0
        for request in sorted(waiting, key=order):
            kinds = _kinds_of(request.resources)
            if kinds and not kinds & ~spent and not is_exact_of(request.request_id):
                yield request, _SPENT
                continue
            place = self.place(request)
            if place.part is not None:
                self.take(request, place.part)
            yield request, place
            if place.part is None:
                self._set_aside(request, place)
                spent |= kinds & self._spent()
        self._aside = {}

    def _spent(self) -> int:
        """Return the kinds of which no part has anything left, as bits."""
        left = [_kinds_of(self._left(part)) for part in self.pool.parts or _WHOLE]
        return ~reduce(or_, left)

    def place(self, request: Request) -> Place:
        """Return the part of the pool that a request fits into, as things stand."""
        if quota := self._over_quota(request):
            return Place(None, "quota", quota)
        parts = self._parts(request)
        if not parts:
            return Place(None, "never")
        fitting = [part for part in parts if self._fits(request, part)]
        if not fitting:
            aside, self._aside = self._aside, {}
            would_fit = any(self._fits(request, part) for part in parts)
            self._aside = aside
            return Place(None, "behind" if would_fit else "room")
        if len(fitting) == 1:
            return Place(fitting[0])
        sign = -1 if self.pool.placing is Placing.PACK else 1
        return Place(min(fitting, key=lambda part: sign * self._load(part)))

    def _parts(self, request: Request) -> list[str]:
        """Return the parts that are large enough."""
        pool, asked = self.pool, request.resources
        if not covers(pool.capacity, asked):
            return []
        return [part for part in pool.parts or _WHOLE if covers(self._capacity(part), asked)]

    def _capacity(self, part: str) -> Resources:
        return self.pool.parts[part] if part else self.pool.capacity

    def _fits(self, request: Request, part: str) -> bool:
        return covers(self._left(ALL), request.resources) and (not part or covers(self._left(part), request.resources))

    def _left(self, part: str) -> Resources:
        """Return what is free of a part, or of all, and not set aside."""
        account = f"part:{part}" if part else ALL
        return self._capacity(part) - self._held_of(account) - self._aside.get(account, NONE)

    def _held_of(self, account: str) -> Resources:
        held = self._changed.get(account)
        return self._held.get(account, NONE) if held is None else held

    def _load(self, part: str) -> float:
        return portion(self._held_of(f"part:{part}"), self._capacity(part))

    def _over_quota(self, request: Request) -> str:
        """Return the account of a quota that a request would exceed, '' for none."""
        for account, quota in self._quotas(request):
            held = self._held_of(account) + self._aside.get(account, NONE) + request.resources
            if not _within(held, quota, request.resources):
                return account
        return ""

    def _quotas(self, request: Request) -> Iterator[tuple[str, Resources]]:
        return quotas_of(self.pool, request.tenant, request.source)

    def _set_aside(self, request: Request, place: Place) -> None:
        if place.part is not None or place.code == "never":
            return
        names = [account for account, _ in self._quotas(request)]
        if place.code != "quota":
            names += [f"part:{part}" if part else ALL for part in self._parts(request)]
        for account in names:
            self._aside[account] = self._aside.get(account, NONE) + request.resources

    def _taken(self, request: Request, part: str, lower: Mapping[str, Sequence[Allocation]]) -> tuple[Allocation, ...]:
        """
        Return those shares of *lower*, by part, that make room in a part, none that is not needed; none if too few.

        Shares in parts that are gone hold something of the whole pool: they are taken if that has too little.
        """
        asked, taken = request.resources, list[Allocation]()
        in_all = self._capacity(ALL) - self._held_of(ALL)
        in_part = self._capacity(part) - self._held_of(f"part:{part}") if part else in_all
        elsewhere = (one for where in lower if where not in (self.pool.parts or _WHOLE) for one in lower[where])
        for share in chain(lower.get(part, ()), elsewhere):
            is_here = not part or share.part == part
            if covers(in_part, asked) if is_here else covers(in_all, asked):
                continue
            taken.append(share)
            in_all += share.resources
            in_part += share.resources if is_here else NONE
        if not (covers(in_all, asked) and covers(in_part, asked)):
            return ()
        for share in sorted(taken, key=lambda one: -one.priority):  # those of the highest priority stay first
            mine = share.resources if not part or share.part == part else NONE
            if covers(in_all - share.resources, asked) and covers(in_part - mine, asked):
                in_all, in_part = in_all - share.resources, in_part - mine
                taken.remove(share)
        return tuple(taken) if len(taken) <= MOST_VICTIMS else ()

    def _wait(
        self, request: Request, place: Place, number: int, shares: Sequence[Allocation], before: Sequence[str]
    ) -> ShareWait:
        asked, holders = request.resources, tuple[str, ...]()
        if place.code == "quota":
            quota = dict(self._quotas(request))[place.account]
            holders = _named(one for one in shares if place.account in accounts(one, ""))
            text = f"{place.account} may hold {amounts_text(quota)}, and it asks for {amounts_text(asked)}"
        elif place.code == "never":
            text = f"no part of the pool has {amounts_text(asked)}"
        elif place.code == "behind":
            holders = tuple(before[:MOST_HOLDERS])
            text = f"what is free is set aside for {', '.join(holders[:3])}"
        else:
            parts = self._parts(request)
            free = {part: _kinds(asked, self._left(part) + self._set_aside_in(part)) for part in (*parts, ALL)}
            best = max(parts, key=lambda part: portion(free[part], asked))
            lacking = asked.lacking(free[best]) or asked.lacking(free[ALL])
            where = f"part {best}" if best else "the pool"
            text = f"{where} has too little: {lacking}" if lacking else f"{where} has room for it"
            holders = _named(one for one in shares if _overlap(one, asked) and (not best or one.part in parts))
        return ShareWait(
            request_id=request.request_id,
            place=number,
            code=place.code or "room",
            text=text,
            held_by=holders,
            until=request.until,
        )

    def _set_aside_in(self, part: str) -> Resources:
        return self._aside.get(f"part:{part}" if part else ALL, NONE)


def wait_of(pool: Pool, held: Mapping[str, Resources], request_id: str) -> ShareWait:
    """Return why one request of a pool waits; what is *held* is known by account."""
    return next(Ledger(pool, held).waits(pool.allocations.values(), pool.waiting.values(), request_id))


def waits_of(pool: Pool) -> Iterator[ShareWait]:
    """Yield why each request of a pool waits, the first one first."""
    shares = pool.allocations.values()
    return Ledger(pool, held_in(shares)).waits(shares, pool.waiting.values())


def quotas_of(pool: Pool, tenant: str, source: str) -> Iterator[tuple[str, Resources]]:
    """Yield what a tenant and a source may hold of a pool, by account, if that is limited."""
    for whose, name in (("tenant", tenant), ("source", source)):
        quota = pool.quotas.get(f"{whose}:{name}") or pool.quotas.get(f"{whose}:*")
        if quota is not None:
            yield f"{whose}:{name}", quota


def amounts_text(resources: Resources) -> str:
    """Return amounts as `2000m cpu, 4096 bytes memory, 1 gpu`."""
    said = (
        (resources.cpu_millis, f"{resources.cpu_millis}m cpu"),
        (resources.memory_bytes, f"{resources.memory_bytes} bytes memory"),
        (resources.gpus, f"{resources.gpus} gpu"),
    )
    return ", ".join(text for amount, text in said if amount) or "nothing"


def _within(held: Resources, quota: Resources, asked: Resources) -> bool:
    """Return whether *held* is within a quota, in the kinds that are asked for; an amount of 0 is not limited."""
    return not any(
        one and most and has > most
        for one, most, has in (
            (asked.cpu_millis, quota.cpu_millis, held.cpu_millis),
            (asked.memory_bytes, quota.memory_bytes, held.memory_bytes),
            (asked.gpus, quota.gpus, held.gpus),
        )
    )


def _overlap(share: Allocation, asked: Resources) -> bool:
    """Return whether a share has something of a kind that is asked for."""
    held = share.resources
    return bool(
        (held.cpu_millis and asked.cpu_millis)
        or (held.memory_bytes and asked.memory_bytes)
        or (held.gpus and asked.gpus)
    )


def _named(shares: Iterable[Allocation]) -> tuple[str, ...]:
    return tuple(one.request_id for one in islice(shares, MOST_HOLDERS))

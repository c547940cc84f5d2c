"""
The agent of one node: brings its containers to their desired state and reports their observed state.

Level-triggered: every second, and at once on a notice or when a container exits, it reports everything it sees and
receives the complete desired state; where the two differ, it starts, stops or removes containers. It keeps no list of
its own, so after any crash the first sync adopts what runs and removes what should not. It never decides to restart
anything, and it ignores orders of an older epoch.

If its lease is not renewed in time, it stops all containers except those with `when_cut_off: keep`: gently when the
lease has expired, and with force at `DEAD_AFTER` leases. The runtime does the latter too, by a dead man's switch that
needs no agent, so it also holds when this process is killed, stopped or blocked. Both count from when a sync was sent.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.clock import SystemClock
from coordinator.commands.acting import ids_of
from coordinator.commands.node import (
    DEAD_AFTER,
    SYNC_TIMEOUT_LEASES,
    SYNCS_A_LEASE,
    DesiredContainer,
    NodeOrders,
    ObservedContainer,
    RegisterNode,
    SyncNode,
)
from coordinator.node.answers import Answers, answering
from coordinator.node.launch import launch_of
from coordinator.runtime.protocol import Observed, Runtime, RuntimeState, start_of
from coordinator.task_groups import task_group
from events.base import START
from events.container import ExitCause
from events.errors import CoordinationError, NotFound
from events.ids import checked
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
    from pathlib import Path

    from coordinator.client.client import Client
    from coordinator.clock import Clock

log = structlog.get_logger(__name__)

SYNC_INTERVAL_S = 1.0
SYNC_TIMEOUT_S = 3.0
"""Time-out of calls as long as the lease of the node is unknown."""
PAUSE_LEASES_MOST = 1 / SYNCS_A_LEASE - SYNC_TIMEOUT_LEASES
CUT_OFF_POLL_LEASES = 0.05
STOP_POLL_S = 0.02
END_S = 1.0
"""How long actions may still take when the agent ends. What is cut off is finished by the next agent."""
FAILED_KEPT = 1000
REASON_CHARS = 1024
"""A longer reason is cut before it is reported."""
REPORT_SHARE = 2
"""A report has at most this part of a message; a longer one is sent in parts."""
KEEP = "keep"
"""`when_cut_off` of containers that run on while their node is cut off."""

_Key = tuple[str, str]
_encoder = msgspec.json.Encoder()


class NodeAgent:
    """The agent of one node; `ready` is set once its first sync was answered. Open it with `NodeAgent.open`."""

    def __init__(
        self,
        client: Client,
        runtime: Runtime,
        *,
        node_id: str,
        capacity: Resources,
        reach: Mapping[str, str],
        secrets: Path,
        labels: dict[str, str] | None = None,
        interval_s: float = SYNC_INTERVAL_S,
        clock: Clock | None = None,
    ) -> None:
        self.node_id = checked(node_id, "node_id")
        self.ready = asyncio.Event()
        self.failures = 0
        """How many actions on containers have failed since the agent began."""
        self._client = client
        self._runtime = runtime
        self._capacity = capacity
        self._reach = reach
        self._secrets = secrets
        self._labels = labels if labels is not None else {}
        self._interval_s = interval_s
        self._clock = clock if clock is not None else SystemClock()
        self._wake = asyncio.Event()
        self._orders: NodeOrders | None = None
        self._lease_s = 0.0
        self._granted_until = 0.0
        self._epoch = (0, 0)
        self._in_parts = True
        self._busy: set[tuple[str, str, bool]] = set()
        self._acting: set[asyncio.Task[None]] = set()
        self._remains: set[_Key] = set()
        self._failed: dict[_Key, str] = {}
        self._closing = False
        self._tasks: asyncio.TaskGroup
        self._answers: Answers

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client, runtime: Runtime, **options: Any) -> AsyncIterator[NodeAgent]:
        """Serve the node while the block runs; containers keep running afterwards, unless `stop_all` was called."""
        agent = cls(client, runtime, **options)
        subjects = client.subjects
        noticed = await client.bus.subscribe(subjects.notice("node", agent.node_id), lambda _: agent._wake.set())
        async with task_group() as agent._tasks, answering(client, runtime, agent.node_id) as agent._answers:
            syncing = agent._tasks.create_task(agent._keep_syncing())
            noticing = agent._tasks.create_task(agent._notice_exits())
            minding = agent._tasks.create_task(agent._mind_lease())
            try:
                yield agent
            finally:
                agent._closing = True
                syncing.cancel()
                noticing.cancel()
                minding.cancel()
                await noticed.unsubscribe()
                await agent._cut_off_actions()

    async def _cut_off_actions(self) -> None:
        """
        Leave to the next agent what takes long: a container may have an hour to stop.

        Why it is to end is on disk before the first signal, so the next agent goes on with it, orders or not.
        """
        if not self._acting:
            return
        _, late = await asyncio.wait(self._acting, timeout=END_S)
        for task in late:
            task.cancel()
        if late:
            log.info(
                "actions_left_to_next_agent", node_id=self.node_id, containers=sorted({k for k, _, _ in self._busy})
            )

    async def stop_all(self) -> None:
        """
        Stop every container here and start no more: this machine is going down.

        Their ends are reported when the node is back: they ended in order, and what should run starts again at once.
        Until then the lease is renewed, so that each has its whole grace.
        """
        self._closing = True
        while True:
            living = [one for one in await self._runtime.list() if one.state is not RuntimeState.EXITED]
            keys = [(one.container_id, one.generation) for one in living]
            await asyncio.gather(
                *(
                    self._attempt(key, self._runtime.stop(*key, grace_s=one.stop_grace_s, cause=ExitCause.REQUESTED))
                    for key, one in zip(keys, living, strict=True)
                )
            )
            if not self._busy:
                return
            await asyncio.sleep(STOP_POLL_S)  # other actions are still under way

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _keep_syncing(self) -> None:
        registered = False
        while True:
            self._wake.clear()
            try:
                if not registered:
                    await self._register()
                    registered = True
                await self._sync()
            except NotFound:
                registered = False
                continue
            except CoordinationError as error:
                log.warning("sync_failed", node_id=self.node_id, why=error.message)
            except Exception:  # what a machine raises must not end the agent, and with it all that runs here
                log.exception("sync_failed", node_id=self.node_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        return min(self._interval_s, self._lease_s * PAUSE_LEASES_MOST) if self._lease_s else self._interval_s

    def _timeout_s(self) -> float:
        return self._lease_s * SYNC_TIMEOUT_LEASES or SYNC_TIMEOUT_S

    async def _notice_exits(self) -> None:
        while True:
            if await self._runtime.wait_change(60.0):
                self._wake.set()

    async def _register(self) -> None:
        await self._client.execute(
            RegisterNode(
                node_id=self.node_id, capacity=self._capacity, runtime=self._runtime.name, labels=self._labels
            ),
            timeout_s=self._timeout_s(),
        )

    async def _sync(self) -> None:
        """Report the observed containers, receive the orders, and begin to carry them out."""
        seen = {(one.container_id, one.generation): one for one in await self._runtime.list()}
        began = self._clock.heard()
        orders = await self._ordered(self._reports(seen))
        if orders is None:
            return
        if self._orders is None:
            self._wake.set()  # only a report on orders tells that a container is missing
        self._orders = orders
        self.ready.set()
        if self._clock.heard() >= began + self._lease_s:
            # They were on their way, or this process was stopped, for longer than they are good for.
            log.warning("orders_expired", node_id=self.node_id)
        elif not self._closing:
            self._carry_out(orders, seen)

    def _reports(self, seen: dict[_Key, Observed]) -> list[ObservedContainer]:
        """Return the report of all containers, in the order of their ids."""
        reports = [_report(one) for key, one in seen.items() if key not in self._remains]
        reports += [
            ObservedContainer(container_id=key[0], generation=key[1], state="failed", reason=why)
            for key, why in self._failed.items()
            if key not in seen
        ]
        # A container that is just being started must not be taken for a missing one.
        for key in sorted({(one, generation) for one, generation, _ in self._busy} - seen.keys() - self._failed.keys()):
            reports.append(ObservedContainer(container_id=key[0], generation=key[1], state="busy"))
        if self._closing:
            # What ends now must not be started again on a node that is about to leave.
            reports = [ObservedContainer(container_id=key[0], generation=key[1], state="busy") for key in seen]
        return sorted(reports, key=_id_of)

    async def _ordered(self, reports: list[ObservedContainer]) -> NodeOrders | None:
        """Send the report and return the orders; None if they are not from the leader."""
        try:
            return await self._ordered_once(reports)
        except CoordinationError as error:
            # A coordinator of an earlier release takes a sync only whole.
            if error.reason != ("bad_request" if self._in_parts else "too_large"):
                raise
            self._in_parts = not self._in_parts
            log.info("sync_changed", node_id=self.node_id, in_parts=self._in_parts)
            return await self._ordered_once(reports)

    async def _ordered_once(self, reports: list[ObservedContainer]) -> NodeOrders | None:
        orders_id = self._orders.orders_id if self._orders is not None else ""
        named: dict[str, DesiredContainer] = {}
        first: NodeOrders | None = None
        after = ""
        while True:
            observed, until = self._part_of(reports, after)
            part = await self._ordered_part(
                SyncNode(
                    node_id=self.node_id,
                    observed=observed,
                    orders_id=orders_id,
                    in_parts=self._in_parts,
                    after=after,
                    until=until,
                )
            )
            if part is None or (first is not None and part.epoch != first.epoch):
                return None
            first = first or part
            named |= {one.container_id: one for one in part.containers}
            if not (part.until or until):
                return msgspec.structs.replace(part, containers=tuple(named.values()))
            if (part.until or until) <= after:
                msg = f"the orders after {after!r} are told to end at {part.until!r}"
                raise CoordinationError(msg, reason="bad_answer")
            after = part.until or until
            # Each part continues the one before it: as long as nobody else got orders, what it does not name is gone.
            orders_id = part.orders_id if orders_id else ""

    def _part_of(self, reports: list[ObservedContainer], after: str) -> tuple[tuple[ObservedContainer, ...], str]:
        """Return the reports of the next part, and the last id of it if there are more."""
        if not self._in_parts:
            return tuple(reports), ""
        left = self._client.bus.max_payload_bytes // REPORT_SHARE
        begin = bisect_right(reports, after, key=_id_of)
        for index in range(begin, len(reports)):
            left -= len(_encoder.encode(reports[index])) + 1
            if left < 0:
                # All generations of a container are in one part.
                container_id = reports[index].container_id
                end = bisect_left(reports, container_id, key=_id_of)
                if end == begin:
                    end = bisect_right(reports, container_id, key=_id_of)
                return tuple(reports[begin:end]), reports[end - 1].container_id
        return tuple(reports[begin:]), ""

    async def _ordered_part(self, sync: SyncNode) -> NodeOrders | None:
        sent_at = self._clock.heard()
        orders: NodeOrders = await self._client.execute(sync, timeout_s=self._timeout_s())
        if orders.epoch < self._epoch:
            log.warning("orders_ignored", node_id=self.node_id, epoch=orders.epoch, seen=self._epoch)
            return None
        if orders.epoch > self._epoch:
            self._epoch = orders.epoch
            self._in_parts = True  # the new leader may be of a later release
        self._lease_s = orders.node_lease_s
        self._granted_until = sent_at + self._lease_s
        await self._grant()
        return orders

    async def _grant(self) -> None:
        try:
            await self._runtime.grant(self._dead_at())
        except Exception as error:  # noqa: BLE001  # the last grant stands, and the next one comes within a second
            log.warning("grant_failed", node_id=self.node_id, why=_why(error))

    def _dead_at(self) -> float:
        """Return when the containers that must not run while cut off are dead, unless the lease is renewed."""
        return self._granted_until + self._lease_s * (DEAD_AFTER - 1)

    def _carry_out(self, orders: NodeOrders, seen: dict[_Key, Observed]) -> None:
        wanted = {(one.container_id, one.generation): one for one in orders.containers}
        # Never run two generations of a container at once: the next one starts when the previous one is gone.
        occupied = {key[0] for key, one in seen.items() if one.state is not RuntimeState.EXITED}
        occupied |= {container_id for container_id, _, _ in self._busy}
        for key, target in wanted.items():
            if key not in seen and key[0] in occupied:
                continue
            action = self._action(target, seen.get(key))
            if action is not None:
                self._run(key, action, force=target.force)
        self._remains = _remains(wanted, seen)
        for key, one in seen.items():
            if key not in wanted and key not in self._remains:
                # The coordinator has given it up and may have started it elsewhere: it gets no grace.
                self._run(key, self._stop_and_remove(key, one, force=True, cause=ExitCause.SUPERSEDED), force=True)
        for key in [key for key in self._failed if key not in wanted]:
            del self._failed[key]

    def _action(self, target: DesiredContainer, seen: Observed | None) -> Awaitable[None] | None:
        """Return the action that brings a container from the seen to the target state, or None if none is needed."""
        key = (target.container_id, target.generation)
        runtime = self._runtime
        if seen is None:
            if target.refused:
                self._note_failure(key, target.refused)
                return None
            # Orders have what a launch needs only for a container that is to start. One that should still run here has
            # ended without a trace: the next report tells so, and the coordinator starts a new generation.
            has_launch = bool(target.command or target.image)
            is_startable = has_launch and target.desired in ("running", "paused") and key not in self._failed
            return self._start(target, self._dead_at()) if is_startable else None
        if seen.cause and seen.state is not RuntimeState.EXITED and target.desired != "destroyed":
            # Whoever began to end it may have died before the signal, or after it: it cannot be taken back.
            return runtime.stop(*key, grace_s=target.stop_grace_s, force=target.force)
        match target.desired, seen.state:
            case "running", RuntimeState.PAUSED:
                return runtime.resume(*key)
            case "paused", RuntimeState.RUNNING:
                return runtime.pause(*key)
            case "stopped", RuntimeState.RUNNING | RuntimeState.PAUSED:
                return runtime.stop(*key, grace_s=target.stop_grace_s, force=target.force)
            case "destroyed", _:
                return self._stop_and_remove(key, seen, force=target.force, grace_s=target.stop_grace_s)
            case _:
                return None

    def _run(self, key: _Key, action: Awaitable[None], *, force: bool) -> None:
        """Run an action on a container in its own task, one at a time; only a forced one may overtake another."""
        mark = (*key, force)
        if mark in self._busy or (*key, True) in self._busy:
            _discard(action)
            return
        self._busy.add(mark)
        acting = self._tasks.create_task(self._finish(mark, action))
        self._acting.add(acting)
        acting.add_done_callback(self._acting.discard)

    async def _finish(self, mark: tuple[str, str, bool], action: Awaitable[None]) -> None:
        try:
            await self._attempt(mark[:2], action)
        finally:
            self._busy.discard(mark)
            self._wake.set()

    async def _attempt(self, key: _Key, action: Awaitable[None]) -> None:
        try:
            await action
        except NotFound:
            pass  # the container is already gone
        except Exception as error:  # noqa: BLE001  # of one container: the agent and all others go on
            self._count_failure(key, error)

    def _count_failure(self, key: _Key, error: Exception) -> None:
        self.failures += 1
        is_ours = not isinstance(error, CoordinationError | OSError)
        log.warning(
            "container_action_failed", **self._ids(key), why=_why(error), failures=self.failures, exc_info=is_ours
        )

    def _ids(self, key: _Key) -> dict[str, str]:
        """Return what lines of the log say of a container; its tenant and trace while the orders name it."""
        ids = {"container_id": key[0], "generation": key[1]}
        found = next((one for one in self._desired() if one.container_id == key[0]), None)
        return ids if found is None else ids | ids_of(found.tenant, found.traceparent)

    async def _start(self, target: DesiredContainer, until: float) -> None:
        key = (target.container_id, target.generation)
        try:
            launch = launch_of(
                target,
                node_id=self.node_id,
                namespace=self._client.subjects.namespace,
                epoch=self._epoch,
                reach=self._reach,
                secrets=self._secrets,
                until=None if target.when_cut_off == KEEP else until,
            )
            observed = await self._runtime.start(launch)
        except Exception as error:  # noqa: BLE001  # of one container: the agent and all others go on
            self._count_failure(key, error)
            self._note_failure(key, _why(error))
            return
        log.info("container_started", **self._ids(key), pid=observed.pid)
        if target.desired == "paused":
            await self._runtime.pause(*key)

    def _note_failure(self, key: _Key, why: str) -> None:
        """Keep why a container could not be started, for the reports."""
        while len(self._failed) >= FAILED_KEPT:
            del self._failed[next(iter(self._failed))]
        self._failed[key] = why[:REASON_CHARS]

    async def _stop_and_remove(
        self,
        key: _Key,
        seen: Observed,
        *,
        force: bool,
        grace_s: float = 10.0,
        cause: ExitCause = ExitCause.REQUESTED,
    ) -> None:
        if seen.state is not RuntimeState.EXITED:
            await self._runtime.stop(*key, grace_s=grace_s, force=force, cause=cause)
        if cause is ExitCause.REQUESTED:  # otherwise a generation elsewhere may wait for the end of this one
            await self._answers.read_out(*key)
        await self._runtime.remove(*key)
        log.info("container_removed", **self._ids(key))

    # --- the lease ----------------------------------------------------------------------------------------------------

    async def _mind_lease(self) -> None:
        """Stop what must not run while the node is cut off, however long a sync takes."""
        await self.ready.wait()
        while True:
            left_s = self._granted_until - self._clock.heard()
            if left_s <= 0:
                left_s = self._lease_s * CUT_OFF_POLL_LEASES
                try:
                    await self._stop_cut_off()
                except Exception as error:  # noqa: BLE001  # tried again at once: what must not run may do so still
                    log.warning("cut_off_failed", node_id=self.node_id, why=_why(error))
            await asyncio.sleep(left_s)

    async def _stop_cut_off(self) -> None:
        """Stop what must not run while the node is cut off: gently for the rest of its time, then with force."""
        keep = {one.container_id for one in self._desired() if one.when_cut_off == KEEP}
        grace_s = max(0.0, self._dead_at() - self._clock.heard())
        force = grace_s == 0.0
        for one in await self._runtime.list():
            key = (one.container_id, one.generation)
            if one.state is RuntimeState.EXITED or one.container_id in keep or self._is_stopping(key, force=force):
                continue
            log.warning("container_cut_off", **self._ids(key), force=force)
            stopping = self._runtime.stop(*key, grace_s=grace_s, force=force, cause=ExitCause.CUT_OFF)
            self._run(key, stopping, force=force)

    def _is_stopping(self, key: _Key, *, force: bool) -> bool:
        return (*key, True) in self._busy or (not force and (*key, False) in self._busy)

    def _desired(self) -> tuple[DesiredContainer, ...]:
        return self._orders.containers if self._orders is not None else ()


def _remains(wanted: Collection[_Key], seen: Mapping[_Key, Observed]) -> set[_Key]:
    """Return what is kept of containers that were started again: their last exited generation, with its log."""
    current = {container_id: start_of(generation) for container_id, generation in wanted}
    last: dict[str, str] = {}
    for (container_id, generation), one in seen.items():
        if one.state is RuntimeState.EXITED and start_of(generation) < current.get(container_id, START):
            last[container_id] = max(generation, last.get(container_id, generation), key=start_of)
    return set(last.items())


def _report(one: Observed) -> ObservedContainer:
    return ObservedContainer(
        container_id=one.container_id,
        generation=one.generation,
        state=one.state.value,
        exit_code=one.exit_code,
        reason=one.reason[:REASON_CHARS],
        pid=one.pid or 0,
        cause=one.cause if one.state is RuntimeState.EXITED else "",
    )


def _id_of(one: ObservedContainer) -> str:
    return one.container_id


def _why(error: Exception) -> str:
    """Return what is told of an error: it enters the journal, and one of an unexpected type may quote a secret."""
    if isinstance(error, CoordinationError):
        return error.message
    kind = type(error).__name__
    return f"{kind}: {error.strerror}" if isinstance(error, OSError) else f"the node agent failed with {kind}"


def _discard(action: Awaitable[None]) -> None:
    """Close a coroutine that will not run."""
    if asyncio.iscoroutine(action):
        action.close()

"""The scheduled faults: processes killed, stopped, cut off; clocks set; machines and server restarted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.deciders.silence import is_held, patience_s
from coordinator.runtime.protocol import RuntimeState
from events.coordinator import Watched
from events.errors import Refused
from tests.simulation.faults import LONG_STOP_S

if TYPE_CHECKING:
    from tests.simulation.broker import Connection
    from tests.simulation.cluster import Sim
    from tests.simulation.loop import Process, SeededLoop

LONGEST_FUSE = 400
LOOK_S = 0.25


class Chaos:
    """Injects faults into a run; each method is one kind and returns True if it found a target."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self._random = sim.random
        self._loop: SeededLoop = asyncio.get_running_loop()  # type: ignore[assignment]  # no other loop is used here

    async def strike(self, kind: str) -> None:
        """Inject faults of *kind* at random times, until cancelled."""
        dice = self._sim.dice
        while True:
            pause_s = dice.pause_s(kind)
            assert pause_s is not None
            await asyncio.sleep(pause_s)
            if await getattr(self, f"_{kind}")():
                dice.fired[kind] += 1

    def heal(self) -> None:
        """Stop all faults, and undo those that last."""
        self._sim.dice.on = False
        self._sim.broker.is_down = self._sim.broker.is_lease_down = False
        for process in self._sim.processes.values():
            process.cut_in = process.cut_out = process.obeys_old_leader = False
            self._loop.wake_process(process)
        for connection in self._sim.broker.connections:
            connection.cut_in = connection.cut_out = False
            connection.held_s = 0.0

    def _one(self, *prefixes: str) -> Process | None:
        found = [one for name, one in self._sim.processes.items() if name.startswith(prefixes) and one.alive]
        return self._random.choice(found) if found else None

    async def _for_a_while(self, longest_s: float) -> None:
        await asyncio.sleep(self._random.choice((0.1, 0.3, 1.0)) * self._random.random() * longest_s)

    # --- network ------------------------------------------------------------------------------------------------------

    async def _partitioned(self) -> bool:
        return await self._cut_off(self._one(""), 40.0)

    async def _node_cut_off(self) -> bool:
        """Cut off the agent of a node that runs something, if there is one, most often until the node is lost."""
        busy = [f"node{number}" for number, machine in enumerate(self._sim.machines) if machine.living()]
        process = self._one(*(busy or ["node"]))
        if process is None:
            return False
        process.cut_out, process.cut_in = True, self._random.random() < 0.7
        await asyncio.sleep(self._random.uniform(3.0, 14.0))
        process.cut_in = process.cut_out = False
        return True

    async def _connection_cut(self) -> bool:
        """Cut one connection of the leader, most often that with which it writes: its doors stay open."""
        end = "writer" if self._random.random() < 0.8 else "doors"
        return await self._cut_off(self._leading(end), 20.0)

    def _leading(self, end: str) -> Connection | None:
        """Return a connection of the leader, that of the writer or that of the doors."""
        name = f"{self._sim.leading() or '-'}-{end}"
        return next((one for one in self._sim.broker.connections if one.name == name), None)

    async def _cut_off(self, one: Process | Connection | None, longest_s: float) -> bool:
        if one is None:
            return False
        cut = self._random.choice(("in", "out", "both"))
        one.cut_in, one.cut_out = cut != "out", cut != "in"
        try:
            await self._for_a_while(longest_s)
        finally:
            one.cut_in = one.cut_out = False
        return True

    async def _lease_down(self) -> bool:
        self._sim.broker.is_lease_down = True
        await asyncio.sleep(self._random.random() * 8.0)
        self._sim.broker.is_lease_down = False
        return True

    async def _answers_late(self) -> bool:
        """Hold up what a leader sends for longer than a takeover takes; most often it resigns soon after."""
        doors = self._leading("doors")
        if doors is None:
            return False
        doors.held_s = self._random.uniform(2.0, 8.0)
        try:
            await asyncio.sleep(self._random.uniform(0.05, 0.5))
            process = doors.process
            if self._random.random() < 0.9 and process.alive and not process.stopped:
                process.context.run(self._sim.coordinators[process.name].stop, "drawn")
            await asyncio.sleep(0.1)
        finally:
            doors.held_s = 0.0  # also when the faults end while it is not connected: then `heal` does not see it
        return True

    async def _many_silent(self) -> bool:
        """Cut off all of a kind until that is a mass silence, then all but one until it is over, then that one too."""
        kind = self._random.choice(list(Watched))
        processes = [one for name, one in self._sim.processes.items() if name.startswith(kind.value) and one.alive]
        limit_s = patience_s(kind, self._sim.rules)
        try:
            for one in processes:
                one.cut_in = one.cut_out = True
            if not await self._until_held(kind, is_so=True, longest_s=3 * limit_s):
                return False
            for one in processes[1:]:
                one.cut_in = one.cut_out = False
            await self._until_held(kind, is_so=False, longest_s=limit_s)
            await asyncio.sleep(self._random.uniform(1.0, 4.0))
        finally:
            for one in processes:
                one.cut_in = one.cut_out = False
        return True

    async def _until_held(self, kind: Watched, *, is_so: bool, longest_s: float) -> bool:
        """Wait until a mass silence of *kind* begins or ends, and return whether it did."""
        until = self._loop.time() + longest_s
        while self._loop.time() < until:
            await asyncio.sleep(LOOK_S)
            leader = self._sim.leader()
            if leader is not None and is_held(leader.world, kind) is is_so:
                return True
        return False

    async def _old_leader(self) -> bool:
        """Let a deposed leader answer the syncs of a node for a while, with its old orders."""
        process = self._one("node")
        if process is None:
            return False
        process.obeys_old_leader = True
        await self._for_a_while(20.0)
        process.obeys_old_leader = False
        return True

    async def _disconnected(self) -> bool:
        connections = list(self._sim.broker.connections)
        if not connections:
            return False
        self._random.choice(connections).abort()
        return True

    async def _server_restarted(self) -> bool:
        broker = self._sim.broker
        broker.is_down = True
        broker.restart()
        await self._for_a_while(8.0)
        broker.is_down = False
        return True

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, *prefixes: str) -> bool:
        process = self._one(*prefixes)
        if process is None:
            return False
        self._sim.kill(process)
        return True

    async def _stop(self, longest_s: float, *prefixes: str) -> bool:
        process = self._one(*prefixes)
        if process is None or process.stopped:
            return False
        self._loop.stop_process(process)
        await self._for_a_while(longest_s)
        self._loop.wake_process(process)
        return True

    def _crash(self, *prefixes: str) -> bool:
        """Let a process die between two of its next steps."""
        process = self._one(*prefixes)
        if process is None or process.fuse is not None:
            return False
        self._loop.light_fuse(process, self._random.randrange(1, LONGEST_FUSE), lambda: self._sim.kill(process))
        return True

    async def _coordinator_killed(self) -> bool:
        return self._kill("coordinator")

    async def _coordinator_without_power(self) -> bool:
        process = self._one("coordinator")
        if process is not None:
            self._sim.lose_power(process)
        return process is not None

    async def _coordinator_crashed(self) -> bool:
        return self._crash("coordinator")

    async def _coordinator_stopped(self) -> bool:
        return await self._stop(40.0, "coordinator")

    async def _coordinator_resigned(self) -> bool:
        process = self._one("coordinator")
        if process is None or process.stopped:
            return False
        process.context.run(self._sim.coordinators[process.name].stop, "drawn")
        return True

    async def _worker_killed(self) -> bool:
        return self._kill("worker")

    async def _worker_stopped(self) -> bool:
        return await self._stop(20.0, "worker", "service")

    async def _node_killed(self) -> bool:
        return self._kill("node")

    async def _node_stopped(self) -> bool:
        return await self._stop(60.0, "node")

    async def _follower_crashed(self) -> bool:
        return self._crash("follower")

    async def _client_killed(self) -> bool:
        return self._kill("client", "containeruser", "pooluser", "domain")

    # --- clocks and machines ------------------------------------------------------------------------------------------

    async def _clock_jumped_ahead(self) -> bool:
        most_s = self._sim.plan.most_wrong_s
        process = self._one("coordinator", "coordinator", "node", "worker")
        if process is not None:
            process.offset_s = min(process.offset_s + self._random.random() * most_s, most_s)
        return process is not None

    async def _clock_jumped_back(self) -> bool:
        most_s = self._sim.plan.most_wrong_s
        process = self._one("coordinator", "coordinator", "node", "worker")
        if process is not None:
            process.offset_s = max(process.offset_s - self._random.random() * most_s, -most_s)
        return process is not None

    async def _slept(self) -> bool:
        """Let hours pass in which nothing runs, as on a machine that sleeps; then all that waited for a time is due."""
        if not await self._may_stop():
            return False
        self._sim.slept_s = LONG_STOP_S
        self._loop.skip(LONG_STOP_S)
        self._sim.watch.hours_passed()
        return True

    async def _may_stop(self) -> bool:
        """Return whether hours may pass now, which they do once."""
        await self._sim.are_scheduled.wait()
        may_stop = not self._sim.has_stopped
        self._sim.has_stopped = True
        return may_stop

    async def _suspended(self) -> bool:
        """Let hours pass by all wall clocks, but not by the monotonic ones, as on a machine that was suspended."""
        may_stop = await self._may_stop()
        if may_stop:
            self._loop.suspended_s = LONG_STOP_S
            self._sim.watch.hours_passed()
        return may_stop

    async def _switched_off_for_hours(self) -> bool:
        """The same, but the coordinators do not wake: they end, and are started again after it."""
        coordinators = [one for name, one in self._sim.processes.items() if name.startswith("coordinator")]
        if not await self._slept():
            return False
        for process in coordinators:
            self._sim.kill(process)
        return True

    async def _container_exited(self) -> bool:
        machine = self._random.choice(self._sim.machines)
        running = [one for one in await machine.list() if one.state is RuntimeState.RUNNING]
        if not running:
            return False
        one = self._random.choice(running)
        machine.exit(one.container_id, one.generation, self._random.randrange(2))
        return True

    async def _start_failed(self) -> bool:
        machine = self._random.choice(self._sim.machines)
        machine.fail_next_start(Refused("drawn", reason="drawn"), begins=self._random.random() < 0.5)
        return True

    async def _machine_restarted(self) -> bool:
        machine = self._random.choice(self._sim.machines)
        machine.lose_all()
        return True

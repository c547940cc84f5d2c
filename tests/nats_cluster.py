"""
Three real nats-servers that form one cluster, for tests: each its own port, store and process group.

Nodes can be killed, frozen, cut off from power and replaced, always by pid, never by name. Their stores can be on a
separate file system in an image (`LoopDisk`): a copy of the image while every node is frozen has what a disk would have
after a power cut. Only that needs root and loop devices.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.errors import Unavailable
from tests.ports import free_ports
from tests.real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

READY_TIMEOUT_S = 60.0
"""Elections take 4 to 9 s each, and a busy machine may need more than one."""
ANSWER_TIMEOUT_S = 2.0
NAMES = ("n1", "n2", "n3")
USER, SYSTEM = "app", "sys"
PASSWORD = "pass-of-tests"
DISK_BYTES = 768 * 1024**2

_CONF = """
server_name: "{name}"
listen: "127.0.0.1:{port}"
ports_file_dir: "{folder}"
accounts {{
  APP {{ jetstream: enabled, users: [ {{ user: {user}, password: "{password}" }} ] }}
  SYS {{ users: [ {{ user: {system}, password: "{password}" }} ] }}
}}
system_account: SYS
cluster {{
  name: tested, listen: "127.0.0.1:{route}", routes: [ {routes} ]
  ping_interval: "2s", ping_max: 2
}}
jetstream {{ store_dir: "{store}", max_mem: 256MB, max_file: 4GB{sync} }}
feature_flags {{ js_ack_fc_v2: false }}
"""


class Node(RealServer):
    """One server of the cluster; *routes* has the cluster addresses of all servers."""

    def __init__(self, name: str, folder: Path, store: Path, *, port: int, route: int, sync: bool) -> None:
        super().__init__(folder)
        self.name = name
        self.store = store
        self.port = port
        self.route = route
        self.routes: list[int] = []
        self.sync = sync

    @property
    def url(self) -> str:
        """Return the URL of this server for clients, with login."""
        return f"nats://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    def conf(self) -> str:
        """Return its configuration."""
        return _CONF.format(
            name=self.name,
            port=self.port,
            route=self.route,
            routes=", ".join(f'"nats://127.0.0.1:{route}"' for route in self.routes),
            folder=self.folder,
            store=self.store,
            user=USER,
            system=SYSTEM,
            password=PASSWORD,
            sync=", sync_interval: always" if self.sync else "",
        )


class LoopDisk:
    """A separate file system in an image file, which shows what has reached the disk."""

    def __init__(self, folder: Path, size_bytes: int = DISK_BYTES) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self._copy = folder / "copy.img"
        self._size_bytes = size_bytes

    def make(self) -> None:
        """
        Create and mount it.

        Raises:
            RuntimeError: not possible on this machine; the message has what is missing.
        """
        if os.geteuid() != 0:
            msg = "a power cut needs root to mount a separate disk: run as root, or skip this scenario"
            raise RuntimeError(msg)
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        self.path.mkdir()
        _run("mkfs.ext4", "-q", "-E", "nodiscard", str(self._image))
        self._mount()

    def copy(self) -> None:
        """Copy what has reached the disk, without data that is only in kernel memory."""
        _run("cp", "--sparse=always", str(self._image), str(self._copy))

    def put_copy_back(self) -> None:
        """Replace the disk by the copy, as after a power cut; all users of the disk must have ended."""
        self._unmount()
        self._copy.replace(self._image)
        self._mount()

    def close(self) -> None:
        """Unmount and remove it; does nothing if it was never created."""
        if self.path.is_mount():
            self._unmount()

    def _mount(self) -> None:
        # Periodic journal commits would write unsynced data, and make the cut less severe.
        _run("mount", "-o", "loop,commit=300", str(self._image), str(self.path))

    def _unmount(self) -> None:
        _run("umount", str(self.path))


class NatsCluster:
    """Nodes by name; requests to the cluster go to any node that answers."""

    def __init__(self, folder: Path, nodes: Iterable[Node], disk: LoopDisk | None = None) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.disk = disk
        self._folder = folder
        self._meet()

    @property
    def url(self) -> str:
        """Return the URLs of all nodes for clients, separated by commas."""
        return ",".join(node.url for node in self.nodes.values())

    async def start(self, *names: str) -> None:
        """Start the nodes *names*, by default all, and wait until the cluster answers."""
        await asyncio.gather(*(self.nodes[name].start() for name in names or self.nodes))
        await self.until_ready()

    async def kill(self, *names: str) -> None:
        """Kill the nodes *names*, by default all, like a crash."""
        await asyncio.gather(*(self.nodes[name].kill() for name in names or self.nodes))

    async def power_cut(self) -> None:
        """Cut the power of all nodes at the same time, and restore it; unsynced data is gone, and no node runs."""
        assert self.disk is not None, "a power cut needs a separate disk"
        for node in self.nodes.values():
            node.pause()
        await asyncio.to_thread(self.disk.copy)
        await self.kill()
        await asyncio.to_thread(self.disk.put_copy_back)

    async def lose(self, name: str) -> None:
        """Kill a node and destroy its store."""
        await self.kill(name)
        await asyncio.to_thread(shutil.rmtree, self.nodes[name].store)

    async def replace(self, gone: str, name: str) -> None:
        """Start a new node *name* in place of a lost one, and remove the old one from the cluster."""
        old = self.nodes.pop(gone)
        node = Node(name, self._folder / name, old.store.with_name(name), port=old.port, route=old.route, sync=old.sync)
        node.folder.mkdir(exist_ok=True)
        self.nodes[name] = node
        self._meet()
        await self.start(name)
        if name != gone:
            await self.forget(gone)

    async def forget(self, name: str) -> None:
        """Remove the server *name* from the cluster, so that its streams move to another one."""
        async with self._asking(system=True) as bus:
            await bus.js_request("SERVER.REMOVE", {"peer": name}, timeout_s=READY_TIMEOUT_S)

    async def info(self, stream: str) -> dict[str, Any]:
        """Request a stream's info until its leader answers."""
        async with self._asking() as bus, asyncio.timeout(READY_TIMEOUT_S):
            while True:
                try:
                    return await bus.js_request(f"STREAM.INFO.{stream}", timeout_s=ANSWER_TIMEOUT_S)
                except (ApiError, Unavailable):
                    await asyncio.sleep(0.1)

    async def leader_of(self, stream: str) -> str:
        """Return the name of the node that leads *stream*."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                leader: str = (await self.info(stream)).get("cluster", {}).get("leader", "")
                if leader in self.nodes and self.nodes[leader].is_running:
                    return leader
                await asyncio.sleep(0.1)

    async def step_down(self, stream: str, name: str) -> None:
        """Request that the node *name* lead *stream*; check the result with `leader_of`."""
        async with self._asking() as bus:
            wanted = {"placement": {"preferred": name}}
            with suppress(ApiError, Unavailable):
                await bus.js_request(f"STREAM.LEADER.STEPDOWN.{stream}", wanted, timeout_s=ANSWER_TIMEOUT_S)

    async def until_ready(self) -> None:
        """Wait until JetStream answers, which it does once its nodes have elected a leader."""
        async with asyncio.timeout(READY_TIMEOUT_S), self._asking() as bus:
            while True:
                try:
                    await bus.js_request("INFO", timeout_s=ANSWER_TIMEOUT_S)
                except (ApiError, Unavailable):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def until_current(self, stream: str) -> None:
        """Wait until every node has all of *stream*."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not _is_current(await self.info(stream), set(self.nodes)):  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _asking(self, *, system: bool = False) -> AsyncIterator[Bus]:
        running = [node.url for node in self.nodes.values() if node.is_running and not node.is_paused]
        url = ",".join(running)
        url = url.replace(f"//{USER}:", f"//{SYSTEM}:") if system else url
        async with Bus.open(url, name="cluster", connect_timeout_s=READY_TIMEOUT_S) as bus:
            yield bus

    def _meet(self) -> None:
        for node in self.nodes.values():
            node.routes = [other.route for other in self.nodes.values()]


@asynccontextmanager
async def nats_cluster(
    folder: Path, *, sync: bool = True, on_disk: bool = False, names: Iterable[str] = NAMES
) -> AsyncIterator[NatsCluster]:
    """
    Run a cluster in *folder* while the block runs; without *sync* the servers have their default sync interval.

    *on_disk* puts all stores on a separate disk, which `power_cut` needs.

    Raises:
        RuntimeError: a disk cannot be created on this machine.
    """
    async with AsyncExitStack() as stack:
        disk = LoopDisk(folder) if on_disk else None
        if disk is not None:
            stack.callback(disk.close)
            await asyncio.to_thread(disk.make)
        names = tuple(names)
        ports = iter(free_ports(2 * len(names)))
        nodes = []
        for name in names:
            (folder / name).mkdir()
            store = (disk.path if disk is not None else folder / "stores") / name
            nodes.append(Node(name, folder / name, store, port=next(ports), route=next(ports), sync=sync))
        cluster = NatsCluster(folder, nodes, disk)
        stack.push_async_callback(cluster.kill)
        await cluster.start()
        yield cluster


def _is_current(info: dict[str, Any], names: set[str]) -> bool:
    told = info.get("cluster", {})
    followers = {one["name"] for one in told.get("replicas") or [] if one.get("current") and not one.get("offline")}
    return {told.get("leader", ""), *followers} == names


def _run(*argv: str) -> None:
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False)
    if ended.returncode:
        msg = f"'{' '.join(argv)}' failed: {ended.stderr.strip()}; a power cut needs loop devices and ext4"
        raise RuntimeError(msg)


__all__ = ["LoopDisk", "NatsCluster", "Node", "nats_cluster"]

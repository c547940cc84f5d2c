"""
Keeps our own nats-server serving: it is restarted when it has ended, and when it cannot write but its disk has room.

A server that found its disk full, out of inodes or read-only acknowledges nothing until it is restarted. While the disk
stays so, a restart would change nothing: the server that runs still answers what only reads. Nothing acknowledged is
lost by a restart: it was synced before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from coordinator.nats_server.health import room_error, write_error
from coordinator.own_process.memory import kills_for_memory, why_ended
from coordinator.task_groups import task_group
from events.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.nats_server.server import EmbeddedServer

log = structlog.get_logger(__name__)

RESTART_PAUSE_S = 0.2
LOOK_EVERY_S = 1.0
"""How often the server's health and, when it cannot write, the room on its disk are looked at."""


async def keep_serving(server: EmbeddedServer) -> None:
    """Restart the nats-server, on its port and store, whenever it ends or can write again only after a restart."""
    while True:
        await _until_in_need(server)
        while True:
            await asyncio.sleep(RESTART_PAUSE_S)
            await _until_room(server.store)
            try:
                await server.restart()
                break
            except Unavailable as error:
                log.warning("program_not_started", program="nats-server", why=error.message)


async def _until_in_need(server: EmbeddedServer) -> None:
    """Wait until the server has ended, or reports a write error and its disk has room."""
    async with task_group() as tasks:
        exiting = tasks.create_task(server.wait_exit())
        error, kills = "", kills_for_memory()
        while not (await asyncio.wait([exiting], timeout=LOOK_EVERY_S))[0]:
            told, error = error, error or await write_error(server.store)
            if not error:
                continue
            full = await asyncio.to_thread(room_error, server.store)
            if not told:
                do = "make room: the server is restarted as soon as there is some" if full else "it is restarted now"
                log.error("nats_server_cannot_write", store=str(server.store), why=error, room=full, do=do)
            if not full:
                log.warning("nats_server_restarting", store=str(server.store), why="there is room on its disk again")
                exiting.cancel()
                return
        code = exiting.result()
        why = why_ended(code, kills)
        log.warning("program_ended", program="nats-server", code=code, why=why, again_in_s=RESTART_PAUSE_S)


async def _until_room(store: Path) -> None:
    """Wait until the disk of *store* has room: a server without any would neither start nor say so."""
    told = False
    while full := await asyncio.to_thread(room_error, store):
        if not told:
            log.error("nats_server_awaits_room", store=str(store), why=full, do="make room")
        told = True
        await asyncio.sleep(LOOK_EVERY_S)

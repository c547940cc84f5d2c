"""
Cleans up after a killed program with an embedded coordinator: stops its containers, removes its temporary folder.

`python -m coordinator.processes.janitor FOLDER RUNTIME NAMESPACE` waits for its parent to die. It does nothing while
the parent lives, and a parent that closes normally ends the janitor first. (A container outlives its node agent by
design, to be adopted; but no agent would adopt one whose folder has a random name.)
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.guard import spawn, watch_parent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from coordinator.settings.model import Settings

PATIENCE_S = 10.0
"""How long removing the folder is retried: nats-server notices its parent's death, then closes its files."""
POLL_S = 0.1


@asynccontextmanager
async def janitor(folder: Path, settings: Settings) -> AsyncIterator[None]:
    """Clean up *folder* and its containers if this process is killed while the block runs."""
    argv = [
        sys.executable,
        "-P",
        "-m",
        "coordinator.processes.janitor",
        str(folder),
        settings.node.runtime,
        settings.namespace,
        settings.node.model_dump_json(include={"docker", "oci"}),
    ]
    async with await spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield


async def clear(folder: Path, runtime: str, namespace: str, node: str) -> None:
    """Kill every container that has its files in *folder*, then remove the folder; *node* is JSON of its settings."""
    from coordinator.home import Home
    from coordinator.processes.node import open_runtime
    from coordinator.settings.sections import NodeSettings
    from events.errors import CoordinationError

    try:
        settings = NodeSettings.model_validate_json(node)
        async with open_runtime(runtime, Home(folder), namespace=namespace, node=settings) as opened:
            for one in await opened.list():
                await opened.stop(one.container_id, one.generation, grace_s=0.0, force=True)
                await opened.remove(one.container_id, one.generation)
    except CoordinationError as error:
        sys.stderr.write(f"coordinator.processes.janitor: {error.message}\n")
    for _ in range(int(PATIENCE_S / POLL_S)):
        if _removed(folder):
            return
        await asyncio.sleep(POLL_S)


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


async def _wait_and_clear(folder: Path, runtime: str, namespace: str, node: str) -> None:
    await watch_parent()
    await clear(folder, runtime, namespace, node)


def main(argv: Sequence[str]) -> None:
    """Wait for the parent to die, then clean up."""
    folder, runtime, namespace, node = argv
    asyncio.run(_wait_and_clear(Path(folder), runtime, namespace, node))


if __name__ == "__main__":
    main(sys.argv[1:])

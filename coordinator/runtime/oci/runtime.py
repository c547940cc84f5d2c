"""
The oci runtime: a container is one of an OCI runtime's, `runc`, `crun` or `runsc` (gVisor), without a daemon.

It is the process runtime with another program in the shim: adoption, grants, causes, logs and exits are the same. The
container is in a control group of its own, so limits, pauses, usage and the last kill need no help of that program.

A container sees no files, processes or network but its own, and has no rights: see `bundle`. By runc and crun it shares
the kernel with the node; by runsc its system calls are answered by a kernel of its own.

Standard output and error pass through runc in two pipes: each is in order, but not always both together.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.clock import Clock
from coordinator.runtime.oci.bundle import PIDS_MAX, Network
from coordinator.runtime.oci.bundles import Bundles
from coordinator.runtime.process.control_groups import Demand, groups_of
from coordinator.runtime.process.hierarchies import find_hierarchies
from coordinator.runtime.process.runtime import ProcessRuntime

USER = 65_534
"""Nobody, on most systems."""
START_TIMEOUT_S = 20.0


class OciRuntime(ProcessRuntime):
    """
    Runs containers by *program*, recorded under *root*; only one runtime at a time may use a root.

    An image is a folder with its name in *images*. Commands run as *user* in *network*. *init* is the static program
    of this node that is process 1 of each container, "" for one that is found, `none` for the command itself.
    """

    name = "oci"
    demand = Demand(of="node.runtime is 'oci'", otherwise="node.runtime process")

    def __init__(
        self,
        root: Path,
        *,
        cluster: str,
        images: Path,
        program: str = "runc",
        init: str = "",
        network: Network = "none",
        user: int = USER,
        kill_timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._bundles = Bundles(
            images=images,
            program=program,
            init=init,
            network=network,
            user=user,
            groups=groups_of(cluster, root.absolute()),
        )
        super().__init__(
            root,
            cluster=cluster,
            start_timeout_s=START_TIMEOUT_S,
            kill_timeout_s=kill_timeout_s,
            clock=clock,
            isolation="limits",
            pids_max=PIDS_MAX,
            hierarchies=find_hierarchies(whole=True),
            programs=self._bundles,
        )

    def check(self) -> None:
        """
        Check that this node can run containers, as opening does first.

        Raises:
            Refused: it cannot; the message says what is missing.
        """
        self._bundles.open()

"""Launches for tests of container runtimes: valid except for what the test checks."""

from __future__ import annotations

import subprocess
import sys

from coordinator.runtime.protocol import Launch

CLUSTER = "cluster-1"


def launch(
    container_id: str = "a",
    *command: str,
    generation: str = "7.0",
    cluster: str = CLUSTER,
    environment: dict[str, str] | None = None,
) -> Launch:
    return Launch(
        container_id=container_id,
        generation=generation,
        name=f"coordination-{container_id}-{generation}",
        cluster=cluster,
        epoch="1.3",
        image="task_agent",
        command=command or ("sleep", "300"),
        environment=environment or {},
        cpu_millis=100,
        memory_bytes=64 * 1024 * 1024,
        stop_grace_s=1.0,
    )


BAD_NAMES = ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\0", "a\n", "a b", "a.b", "*", "ä", "x" * 65, 7, None]
BAD_POSITIONS = ["", "1", "1.", ".1", "1.0\n", "../1.0", "-1.0", "1.0.0", "1/0.0", "¹.0", "1" * 21 + ".0", 1.0, None]
BAD_COMMANDS: list[object] = [
    (),
    [],
    "sleep 1",
    ("",),
    ("sleep", "1\0"),
    ("sleep", 1),
    ("sleep", "\ud800"),
    ("sleep", "x" * 65_537),
]
BAD_COMMANDS += [("sleep",) * 1_025, tuple("x" * 60_000 for _ in range(9)), None]
BAD_ENVIRONMENTS = [
    *({name: "hush"} for name in ("", "A B", "A=B", "1A", "A\n", "A\0", "A-B", "x" * 129)),
    *({name: "hush"} for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "IFS")),
    *({"A": value} for value in ("hush\0", "hush\ud800", "hush" * 20_000, 7, None)),
    {f"A{n}": "hush" for n in range(513)},
    None,
    [("A", "hush")],
]
HOSTILE_LAUNCHES: list[tuple[str, object]] = [
    *(("container_id", value) for value in BAD_NAMES),
    *(("cluster", value) for value in [*BAD_NAMES, "cluster-2"]),
    *(("generation", value) for value in BAD_POSITIONS),
    *(("epoch", value) for value in BAD_POSITIONS),
    *(("name", value) for value in [*BAD_NAMES, "a-7.0", "-a-7.0", "../x-a-7.0", "a/b-a-7.0", "x" * 65 + "-a-7.0"]),
    *(("name", value) for value in ["coordination-b-7.0", "coordination-a-7.1", "coordination-a-7.0/", ".new-x-a-7.0"]),
    *(("image", value) for value in ["x\n", "x\x1b[2J", "x" * 513, None]),
    *(("command", value) for value in BAD_COMMANDS),
    *(("environment", value) for value in BAD_ENVIRONMENTS),
    *((name, value) for name in ("cpu_millis", "memory_bytes") for value in (-1, 0.5, True, "1", None)),
    *(("stop_grace_s", value) for value in (-1, 3_601, float("nan"), float("inf"), True, "1", None)),
]


def start_and_die(code: str, *arguments: str) -> None:
    """Run *code*, which starts a container as a node agent does and says `started`, and kill it then."""
    agent = subprocess.Popen(
        (sys.executable, "-c", code, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert agent.stderr is not None
        with agent.stderr:
            assert agent.stderr.readline() == "started\n"
    finally:
        agent.kill()
        agent.wait()

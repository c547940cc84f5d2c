"""The launch of a container, and the secrets that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.commands.node import DesiredContainer
from coordinator.node.launch import launch_of
from events.container import Secret
from events.errors import Refused, Unavailable
from tests.descriptors import no_descriptor_left

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.runtime.protocol import Launch

WANTED = DesiredContainer(
    container_id="a",
    generation="1.0",
    agent_type="worker",
    desired="running",
    command=("true",),
    environment={"KEY": Secret(secret="key")},
)


def _launch(secrets: Path) -> Launch:
    return launch_of(WANTED, node_id="n", namespace="coordination", epoch=(1, 1), reach={}, secrets=secrets)


def test_a_secret_that_cannot_be_read_now_is_not_missing(tmp_path: Path) -> None:
    """A node agent without a descriptor says that, and not that the secret must be put there."""
    with pytest.raises(Refused, match="put it into the node's secrets folder"):
        _launch(tmp_path)
    (tmp_path / "key").write_text("value\n")
    with no_descriptor_left(), pytest.raises(Unavailable, match="Too many open files"):
        _launch(tmp_path)
    assert _launch(tmp_path).environment["KEY"] == "value"

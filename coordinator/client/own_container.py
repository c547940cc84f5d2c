"""The container that this process runs in."""

from __future__ import annotations

import os

VARIABLE = "COORDINATOR_CONTAINER_ID"
"""A node agent sets it in each container."""


def own_container() -> str:
    """Return the id of the container that this process runs in; "" outside of any."""
    return os.environ.get(VARIABLE, "")

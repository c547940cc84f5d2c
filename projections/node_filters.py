"""
Which nodes may run a container whose agent type has a `node_filter`: a filter (see `filters`) over nodes. Pure.

    labels.zone == "eu" && runtime != "process"
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

from projections.filters import Fields, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.node import Node

FIELDS = Fields(
    plain={"node_id": attrgetter("node_id"), "runtime": attrgetter("runtime")},
    maps={"labels": attrgetter("labels")},
)


@lru_cache(maxsize=1024)
def condition(node_filter: str) -> Callable[[Node], bool]:
    """
    Return what tells whether a node meets a filter.

    Raises:
        Refused: it is not a condition on nodes; the message says where and why.
    """
    return parsed(node_filter, FIELDS)

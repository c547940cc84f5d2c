"""
Which workers may run a task that has a `worker_filter`: a filter (see `filters`) over what is known of workers. Pure.

    labels.zone == "eu" && labels.gpu_memory >= 16
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from events.task import Scalar
from projections.filters import Fields, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from projections.container import Container
    from projections.worker import WorkerState

NONE_MET: frozenset[str] = frozenset()


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a filter may know of a worker; '' is the container, the node or the build id that there is none of."""

    worker_id: str
    labels: dict[str, Scalar] = {}
    container_id: str = ""
    agent_type: str = ""
    node_id: str = ""
    build_id: str = ""


FIELDS = Fields(
    plain={name: attrgetter(name) for name in Facts.__struct_fields__ if name != "labels"},
    maps={"labels": attrgetter("labels")},
)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


@lru_cache(maxsize=4096)
def condition(worker_filter: str) -> Callable[[Facts], bool]:
    """
    Return what tells whether a worker meets a filter.

    Raises:
        Refused: it is not a condition on workers; the message says where and why.
    """
    return parsed(worker_filter, FIELDS)


def facts_of(worker: WorkerState, containers: Mapping[str, Container]) -> Facts:
    """Return what a filter may know of a worker."""
    container = containers.get(worker.container_id)
    if container is None:
        return Facts(worker.worker_id, worker.labels, worker.container_id, build_id=worker.build_id)
    return Facts(
        worker.worker_id,
        worker.labels,
        worker.container_id,
        container.agent_type,
        container.node_id,
        worker.build_id,
    )


def met(facts: Facts, filters: tuple[str, ...]) -> frozenset[str]:
    """Return those of some filters that a worker meets; of the same worker again at once."""
    # The labels 1, 1.0 and true are equal, and their filters differ: as text they are not.
    return _met(_encode(facts), filters)


@lru_cache(maxsize=1024)
def _met(facts: bytes, filters: tuple[str, ...]) -> frozenset[str]:
    worker = _decode(facts)
    return frozenset(one for one in filters if condition(one)(worker))

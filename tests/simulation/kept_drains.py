"""What a node that is emptied promises, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.node import NodeCordoned, NodeDrained, NodeDraining, NodeRemoved, NodeRemoving, NodeUncordoned

if TYPE_CHECKING:
    from events.base import Event


class KeptDrains:
    """Which nodes are cordoned or emptied, and what runs on them; `take` returns what is wrong with an event, or ''."""

    def __init__(self) -> None:
        self._cordoned: set[str] = set()
        self._leaving: set[str] = set()
        self._on: dict[str, str] = {}
        """The node of each container of which something may run."""
        self._moving: set[str] = set()
        self.moved = 0

    def take(self, event: Event) -> str:
        """Apply an event; return what is wrong with it."""
        match event:
            case NodeCordoned() | NodeDraining() | NodeRemoving():
                self._cordoned.add(event.node_id)
                if not isinstance(event, NodeCordoned):
                    self._leaving.add(event.node_id)
            case NodeUncordoned():
                self._cordoned.discard(event.node_id)
                self._leaving.discard(event.node_id)
            case NodeDrained() | NodeRemoved():
                return self._emptied(event)
            case ContainerCreated() if event.node_id in self._cordoned:
                return f"{event}, but the node is cordoned"
            case ContainerStarting():
                return self._started(event)
            case ContainerStopping() if event.move:
                self._moving.add(event.container_id)
            case ContainerStopping():
                self._moving.discard(event.container_id)
            case ContainerStopped() | ContainerFailed() | ContainerDestroyed():
                self._on.pop(event.container_id, None)
            case _:
                pass
        return ""

    def _emptied(self, event: NodeDrained | NodeRemoved) -> str:
        if isinstance(event, NodeRemoved):
            self._cordoned.discard(event.node_id)
            self._leaving.discard(event.node_id)
        there = [one for one, node_id in self._on.items() if node_id == event.node_id]
        return f"{event}, but {there} may run there" if there else ""

    def _started(self, event: ContainerStarting) -> str:
        if event.node_id in self._leaving:
            return f"{event}, but the node is to become empty"
        if (there := self._on.get(event.container_id)) is not None:
            return f"{event}, but it may run on {there}"
        self._on[event.container_id] = event.node_id
        if event.reason == "moved":
            if event.container_id not in self._moving:
                return f"{event}, but nobody moves it"
            self.moved += 1
        self._moving.discard(event.container_id)
        return ""

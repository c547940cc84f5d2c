"""What containers run and how often they are restarted, derived from the journal without the code that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.agents import AgentsChanged, AgentType
from events.container import (
    ContainerCreated,
    ContainerEvent,
    ContainerFailed,
    ContainerStarting,
    RestartPolicy,
)

if TYPE_CHECKING:
    from events.base import Event

NO_FAULT = ("requested", "cut_off", "superseded")


class KeptAgents:
    """The catalogue in force, and of each container its policy, its failures, and when it may start again."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentType] | None = None
        self._policies: dict[str, RestartPolicy] = {}
        self._counted: dict[str, tuple[float, int]] = {}
        self._stay: set[str] = set()
        self._nodes: dict[str, str] = {}
        self._starts_at: dict[str, float | None] = {}
        self.given_up = 0

    def take(self, event: Event, time: float, actor: str) -> str:
        """Take any event, and return what is wrong with it, '' if nothing."""
        if isinstance(event, AgentsChanged):
            if self._agents is not None and not actor:
                return f"{event} is no command, and there was a catalogue"
            self._agents = event.agents
        elif isinstance(event, ContainerCreated):
            return self._created(event)
        elif isinstance(event, ContainerStarting):
            return self._starting(event, time)
        elif isinstance(event, ContainerFailed):
            return self._failed(event, time)
        elif isinstance(event, ContainerEvent):
            self._starts_at.pop(event.container_id, None)
        return ""

    def _created(self, event: ContainerCreated) -> str:
        self._policies[event.container_id] = event.restart
        self._counted.pop(event.container_id, None)
        self._nodes.pop(event.container_id, None)
        self._stay.discard(event.container_id)
        if not event.moves:
            self._stay.add(event.container_id)
        if self._agents is None:
            return ""
        agent = self._agents.get(event.agent_type)
        if agent is None:
            return f"{event}, but the catalogue has no such type"
        right = (agent.command, agent.image, agent.stop_grace_s, agent.restart, agent.moves)
        if (event.command, event.image, event.stop_grace_s, event.restart, event.moves) != right:
            return f"{event}, but the catalogue says {agent}"
        return ""

    def _starting(self, event: ContainerStarting, time: float) -> str:
        container_id = event.container_id
        before = self._nodes.get(container_id, event.node_id)
        self._nodes[container_id] = event.node_id
        if container_id in self._stay and event.node_id != before:
            return f"{event}, but it was on {before} and does not move"
        due = self._starts_at.pop(container_id, 0.0)
        if event.reason == "requested":
            self._counted.pop(container_id, None)
        elif event.reason != "restart":
            return ""
        elif due is None:
            return f"{event}, but it was given up"
        elif time < due:
            return f"{event} at {time}, but its pause lasts until {due}"
        return ""

    def _failed(self, event: ContainerFailed, time: float) -> str:
        container_id, due = event.container_id, event.restart_at
        policy = self._policies[container_id]
        self._starts_at[container_id] = due
        if policy.attempts is None or event.cause in NO_FAULT:
            return "" if due is not None else f"{event}, but nothing says that it is given up"
        since, number = self._counted.get(container_id, (time, 0))
        if time - since >= policy.interval_s:
            since, number = time, 0
        self._counted[container_id] = since, number + 1
        if number < policy.attempts:
            return "" if due is not None else f"{event}, but {policy} lets it start again"
        if policy.mode == "fail":
            self.given_up += 1
            return "" if due is None else f"{event} is failure {number + 1} since {since}, and {policy} gives it up"
        if due is None or due < since + policy.interval_s:
            return (
                f"{event} is failure {number + 1} since {since}, and {policy} lets it wait for the end of the interval"
            )
        return ""

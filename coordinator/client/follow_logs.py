"""
Follow the log of a container: over its restarts, moves to other nodes, and the ends of node agents and connections.

A place in the log is a generation and a position in it. Whoever follows asks the node for what comes after its place,
so nobody keeps anything for it, and nothing comes twice. The coordinator is asked which node that is, and whether there
will be more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.client.nodes import ask_follow, ask_node
from coordinator.commands.container import GetContainer
from coordinator.commands.node import LOG_START, FollowQuestion, NodeQuestion
from events.container import ContainerStatus
from events.errors import CoordinationError, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.client.client import Client, Door
    from coordinator.commands.node import FollowedLogs
    from projections.container import Container

WAIT_S = 20.0
"""How long one question waits for a change of the container."""
LINES_WAIT_S = 5.0
"""How long one waits for lines; one whose node agent ends meanwhile is never answered."""
ANSWER_S = 3.0
SOON_S = 1.0
"""How long is waited for what is about to happen, or for a node that does not answer."""

_S = ContainerStatus
_RESTING = frozenset({_S.CREATED, _S.STOPPED, _S.ERROR})
log = structlog.get_logger(__name__)


class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A line of a container's log, with the generation and the node that it is of.

    With `is_note` it is none: it says that lines are missing before the next one, or why none comes.
    """

    text: str
    generation: str
    node_id: str
    is_note: bool = False


async def follow_logs(
    client: Client, container_id: str, lines: int = 100, *, door: Door | None = None
) -> AsyncGenerator[LogLine]:
    """
    Yield the last *lines* lines of a container, then each further one, until it is destroyed.

    Args:
        client: the connection.
        container_id: the container; it need not run, or have run.
        lines: how many lines to begin with, 1 to 10,000.
        door: who is asked about the container; by default the client.

    Raises:
        NotFound: the container does not exist.
        Unavailable: its node does not answer the first question; later ones are repeated until it does.
        Refused: its node cannot do it: its runtime, or the release of its agent.
    """
    followed = _Followed(client, container_id, lines, client if door is None else door)
    while not followed.is_over:
        for line in await followed.more():
            yield line


class _Followed:
    def __init__(self, client: Client, container_id: str, lines: int, door: Door) -> None:
        self.is_over = False
        self._client = client
        self._door = door
        self._container: Container | None = None
        self._question = FollowQuestion(container_id=container_id, lines=lines, wait_s=0.0)
        self._node_id = ""
        """The node that answered last."""
        self._has_ended = False
        """Whether all lines of the generation asked about were read."""
        self._is_silent = False

    async def more(self) -> list[LogLine]:
        """Return the next lines; none if it has waited in vain, or the container has changed."""
        container = await self._look(wait_s=0.0) if self._container is None else self._container
        if container is None or container.is_ended:
            self.is_over = True
            return []
        if not container.generation:
            await self._look(WAIT_S)
            return []
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await self._ask(container.node_id)
        except NotFound:
            # It is not there yet, or not any more: the coordinator knows which.
            await self._look(SOON_S)
            return []
        except Unavailable as error:
            return await self._unanswered(error)
        return await self._taken(container, answer, loop.time() - began)

    async def _ask(self, node_id: str) -> FollowedLogs:
        try:
            return await ask_follow(self._client, node_id, self._question, timeout_s=ANSWER_S)
        except Unavailable as error:
            if error.reason != "no_responders" or not await self._answers_others(node_id):
                raise
        try:
            # It may have begun to answer between the two.
            return await ask_follow(self._client, node_id, self._question, timeout_s=ANSWER_S)
        except Unavailable as error:
            if error.reason != "no_responders":
                raise
            msg = f"the agent of node {node_id} is of an earlier release, which cannot follow logs: update it"
            raise Refused(msg, reason="not_supported") from error

    async def _answers_others(self, node_id: str) -> bool:
        """Return whether a node answers an older question: an agent subscribes to that after the newer one."""
        question = NodeQuestion(container_id=self._question.container_id, lines=1)
        try:
            await ask_node(self._client, node_id, "logs", question)
        except Unavailable:
            return False
        except CoordinationError:
            return True
        return True

    async def _unanswered(self, error: Unavailable) -> list[LogLine]:
        if not self._node_id:
            raise error
        told = [] if self._is_silent else [self._note(f"{error.message}; it is asked again until it does")]
        self._is_silent = True
        await asyncio.sleep(SOON_S)
        self._container = None
        return told

    async def _taken(self, container: Container, answer: FollowedLogs, took_s: float) -> list[LogLine]:
        asked = self._question
        told: list[LogLine] = []
        if asked.generation and answer.generation != asked.generation and not self._has_ended:
            told.append(self._note(f"the rest of what generation {asked.generation} wrote is not kept any more"))
        self._is_silent = False
        self._node_id = container.node_id
        self._question = msgspec.structs.replace(
            asked, generation=answer.generation, position=answer.position, wait_s=LINES_WAIT_S
        )
        self._has_ended = answer.is_end
        if answer.is_cut:
            told.append(self._note("lines are missing here: the log is bounded, and has dropped them"))
        told += [LogLine(text=text, generation=answer.generation, node_id=container.node_id) for text in answer.lines]
        if answer.next:
            self._question = msgspec.structs.replace(self._question, generation=answer.next, position=LOG_START)
            self._has_ended = False
        elif answer.is_end and not told:
            await self._look(WAIT_S if self._rests(container) else SOON_S)
        elif not told and asked.wait_s:
            # The container may have left that node; or the node has no room for one that waits.
            await self._look(0.0 if took_s >= asked.wait_s / 2 else SOON_S)
        return told

    def _rests(self, container: Container) -> bool:
        """Return whether nothing happens to the container unless its status changes."""
        return container.status in _RESTING and container.generation == self._question.generation

    async def _look(self, wait_s: float) -> Container | None:
        """Ask for the container, after a change of its status or *wait_s* seconds; None if it is not there any more."""
        before = self._container
        unless = (before.status,) if before is not None and wait_s else ()
        question = GetContainer(
            container_id=self._question.container_id, unless=unless, wait_s=wait_s if unless else 0.0
        )
        try:
            self._container = await self._door.execute(question)
        except NotFound:
            if before is None and not self._node_id:
                raise
            self._container = None
            self.is_over = True
        except Unavailable as error:
            if before is None and not self._node_id:
                raise
            log.info("container_not_known", container_id=question.container_id, why=error.message)
            await asyncio.sleep(SOON_S)
        return self._container

    def _note(self, text: str) -> LogLine:
        return LogLine(text=text, generation=self._question.generation, node_id=self._node_id, is_note=True)

"""
Ask a node's agent about its containers, over NATS and without the coordinator.

Logs and measurements are not facts of the cluster: they never enter the journal and never pass through the writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.node import FollowedLogs, FollowQuestion, NodeQuestion
from events.errors import Unavailable, error_of

if TYPE_CHECKING:
    from coordinator.client.client import Client


async def ask_node(client: Client, node_id: str, verb: str, question: NodeQuestion, *, timeout_s: float = 5.0) -> Any:
    """
    Ask a node's agent for the `logs` or the `usage` of a container; logs in as many answers as they need.

    Args:
        client: the connection.
        node_id: the node.
        verb: "logs" or "usage".
        question: the container, and for logs the number of lines.
        timeout_s: seconds to wait for each answer.

    Raises:
        Unavailable: the agent does not answer.
        NotFound: the agent has no such container.
    """
    answer = await _ask(client, node_id, verb, question, timeout_s)
    value = answer["ok"]
    while older := answer.get("older"):  # lines that had no room in the answer
        answer = await _ask(client, node_id, verb, msgspec.structs.replace(question, older=older), timeout_s)
        if not answer["ok"]:
            break
        value = [*answer["ok"], *value]
    return value


async def ask_follow(client: Client, node_id: str, question: FollowQuestion, *, timeout_s: float = 5.0) -> FollowedLogs:
    """
    Ask a node's agent for the log lines of a container after a position; it waits for some, if the question says so.

    Raises:
        Unavailable: the agent does not answer within the wait and *timeout_s*.
        NotFound: the agent has neither this generation of the container nor a later one.
        Refused: its runtime or its release cannot do it (`not_supported`), or the position is none.
    """
    answer = await _ask(client, node_id, "follow", question, question.wait_s + timeout_s)
    return msgspec.convert(answer["ok"], FollowedLogs)


async def _ask(
    client: Client, node_id: str, verb: str, question: NodeQuestion | FollowQuestion, timeout_s: float
) -> dict[str, Any]:
    subject = client.subjects.node(node_id, verb)
    try:
        answer: dict[str, Any] = msgspec.json.decode(
            await client.bus.request(subject, msgspec.json.encode(question), timeout_s=timeout_s)
        )
    except Unavailable as error:
        msg = f"the agent of node {node_id} does not answer: {error.message}"
        raise Unavailable(msg, reason=error.reason) from error
    if "error" in answer:
        raise error_of(answer["error"]["code"], answer["error"]["message"])
    return answer

"""The catalogue of agents: what containers of each type run."""

from __future__ import annotations

from coordinator.commands.command import Command, Example, Question
from events.agents import AgentType
from projections.agents import Catalogue

_AGENTS = {"reviewer": {"command": ["python", "-m", "reviewer"], "limits": {"memory_bytes": 2147483648}}}
_CATALOGUE = {
    "digest": "633c75c98fafa832f74e7ea3dbc2c4179829b08249b3b33660a22cb07ae9107a",
    "agents": _AGENTS,
    "changed_at": 1795968191.64,
    "changed_by": "operations",
    "reason": "reviewers",
}


class ApplyAgents(Command[Catalogue], frozen=True, kw_only=True, gc=False):
    """
    Replace the catalogue of agents by this one; it is in force for containers that are created from then on.

    With `digest_was`, only if that is the digest of the catalogue in force.
    """

    KIND, VERB = "agents", "apply"
    FOR = frozenset()
    REFUSALS = frozenset(
        {
            "bad_agent",
            "bad_filter",
            "bad_number",
            "bad_resources",
            "bad_text",
            "changed_meanwhile",
            "too_many",
        }
    )
    EXAMPLE = Example({"agents": _AGENTS, "reason": "reviewers"}, _CATALOGUE)

    agents: dict[str, AgentType]
    reason: str = ""
    digest_was: str = ""


class GetAgents(Question[Catalogue], frozen=True, kw_only=True, gc=False):
    """Get the catalogue of agents in force; its digest is '' if it is that of the leader's settings."""

    KIND, VERB = "agents", "get"
    EXAMPLE = Example({}, _CATALOGUE)

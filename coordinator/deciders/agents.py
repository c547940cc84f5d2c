"""
The catalogue of agents: what a container of each type runs. Pure.

The journal holds it. Until it holds one, the settings of the leader apply, and the first leader whose settings name
agents writes theirs down; from then on only a command changes it, so that a takeover by a coordinator with another
file changes nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.agents import ApplyAgents
from coordinator.commands.command import Command
from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders.rules import BUILT_IN, Decider, Teller
from events.agents import AgentsChanged
from events.errors import Refused, shown
from events.ids import checked
from events.resources import Resources
from projections.agents import digest_of
from projections.node_filters import condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from events.agents import AgentType
    from events.base import Event
    from events.container import RestartPolicy
    from projections.agents import Catalogue
    from projections.world import World

MOST_AGENTS = 256
BYTES_MOST = 128 * 1024
"""Bytes of a catalogue as JSON: an event has it as a whole."""
WORDS_MOST, WORD_CHARS_MOST, IMAGE_CHARS_MOST = 1024, 32_768, 512
GRACE_MOST_S = 3600.0
RESTART_MODES = ("fail", "delay")
CODES_MOST = 256
ATTEMPTS_MOST = 1000
DAY_S = 86_400.0
WHEN_CUT_OFF = ("stop", "keep")
NAMED = 10
"""A refusal names so many types."""


def apply_agents(world: World, command: ApplyAgents, context: DecisionContext) -> Events:
    """Replace the catalogue; the same one again changes nothing."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    in_force = world.agents.digest or digest_of(context.rules.agents)
    if command.digest_was and command.digest_was != in_force:
        msg = f"digest_was is {shown(command.digest_was)}, but the catalogue in force is {in_force}: look at it first"
        raise Refused(msg, reason="changed_meanwhile")
    if len(command.agents) > MOST_AGENTS:
        msg = f"agents has {len(command.agents)} entries: use at most {MOST_AGENTS}"
        raise Refused(msg, reason="too_many")
    for name, agent in command.agents.items():
        checked(name, "the name of an agent type")
        _check(name, agent)
    size = len(msgspec.json.encode(command.agents))
    if size > BYTES_MOST:
        msg = f"agents takes {size} bytes as JSON: use at most {BYTES_MOST}, and put long arguments into files"
        raise Refused(msg, reason="bad_agent")
    return _changed(world, command.agents, command.reason)


def _changed(world: World, agents: Mapping[str, AgentType], reason: str) -> Events:
    digest = digest_of(agents)
    if digest == world.agents.digest:
        return ()
    return (AgentsChanged(digest=digest, agents=dict(agents), reason=reason),)


def _check(name: str, agent: AgentType) -> None:
    if not agent.command and not agent.image:
        raise _bad(name, "has no command and no image: give it one of them")
    if len(agent.command) > WORDS_MOST:
        raise _bad(name, f"has a command of {len(agent.command)} words: use at most {WORDS_MOST}")
    for word in agent.command:
        if not 0 < len(word) <= WORD_CHARS_MOST or "\0" in word:
            why = f"use 1 to {WORD_CHARS_MOST} characters without NUL"
            raise _bad(name, f"has the word {shown(word)} in its command: {why}")
    if len(agent.image) > IMAGE_CHARS_MOST or not agent.image.isprintable() or " " in agent.image:
        why = f"use at most {IMAGE_CHARS_MOST} characters, such as images.example/reviewer:1.2"
        raise _bad(name, f"has the image {shown(agent.image)}: {why}")
    if agent.when_cut_off not in WHEN_CUT_OFF:
        raise _bad(name, f"has when_cut_off {shown(agent.when_cut_off)}: use {' or '.join(WHEN_CUT_OFF)}")
    check_number(f"stop_grace_s of agent type {name}", agent.stop_grace_s, 0.0, GRACE_MOST_S)
    check_resources(f"limits of agent type {name}", agent.limits)
    _check_restart(name, agent.restart)
    if agent.node_filter:
        try:
            condition(agent.node_filter)
        except Refused as refused:
            raise _bad(name, f"has a node_filter that is none: {refused.message}") from None


def _check_restart(name: str, policy: RestartPolicy) -> None:
    if policy.mode not in RESTART_MODES:
        raise _bad(name, f"has restart.mode {shown(policy.mode)}: use {' or '.join(RESTART_MODES)}")
    if len(policy.finished_codes) > CODES_MOST or not all(0 < code < CODES_MOST for code in policy.finished_codes):
        raise _bad(name, f"has restart.finished_codes {shown(policy.finished_codes)}: use numbers from 1 to 255")
    for field, most in (
        ("attempts", ATTEMPTS_MOST),
        *(("interval_s", DAY_S), ("delay_s", DAY_S), ("delay_max_s", DAY_S), ("reset_s", DAY_S)),
    ):
        amount = getattr(policy, field)
        if amount is not None:
            check_number(f"restart.{field} of agent type {name}", amount, 0, most)


def _bad(name: str, why: str) -> Refused:
    return Refused(f"agent type {name!r} {why}", reason="bad_agent")


def agents_of(world: World, rules: Rules) -> Mapping[str, AgentType]:
    """Return the catalogue in force."""
    return world.agents.agents if world.agents.digest else rules.agents


def agent_of(world: World, agent_type: str, rules: Rules) -> AgentType:
    """
    Return what a new container of a type runs.

    Raises:
        Refused: the catalogue in force does not have it.
    """
    agents = agents_of(world, rules)
    agent = agents.get(agent_type)
    if agent is None:
        raise no_agent(agent_type, agents)
    return agent


def no_agent(agent_type: str, agents: Mapping[str, AgentType]) -> Refused:
    """Return the error for a type that the catalogue does not have."""
    near = get_close_matches(agent_type, agents, n=3)
    named = f"use one of {', '.join(sorted(agents)[:NAMED])}" if agents else "it has none: apply one that does"
    known = f"did you mean {' or '.join(near)}?" if near else named
    return Refused(f"agent_type {agent_type!r} is not in the catalogue: {known}", reason="unknown_agent_type")


def limits_of(name: str, agent: AgentType, resources: Resources, rules: Rules) -> Resources:
    """
    Return what a container gets at most: what it asks for, else the limits of its type and of all containers.

    Raises:
        Refused: it asks for more than these limits.
    """
    found: dict[str, int] = {}
    for kind in ("cpu_millis", "memory_bytes", "gpus"):
        asked: int = getattr(resources, kind)
        bounds = [
            (bound, where)
            for bound, where in (
                (getattr(agent.limits, kind), f"limits of agent type {name}"),
                (getattr(rules.resource_limits, kind), "container.resource_limits"),
            )
            if bound
        ]
        most, where = min(bounds, default=(0, ""))
        if bounds and asked > most:
            msg = f"resources.{kind} is {asked}: use at most {most}, as {where} says"
            raise Refused(msg, reason="over_limit")
        found[kind] = asked if asked or kind == "gpus" else most
    return Resources(cpu_millis=found["cpu_millis"], memory_bytes=found["memory_bytes"], gpus=found["gpus"])


def due(world: World, rules: Rules) -> Iterator[Event]:
    """Yield the catalogue of the leader's settings, if they name agents and the journal has none yet."""
    if not world.agents.digest and rules.agents != BUILT_IN:
        yield from _changed(world, rules.agents, f"the settings of {world.leader}")


def _told(world: World, *_: object) -> Catalogue:
    return world.agents


DECIDERS: dict[type[Command], Decider] = {ApplyAgents: apply_agents}
TELLERS: dict[type[Command], Teller] = {ApplyAgents: _told}

"""Roles, their permissions and the generated configuration: the pure part; tests/e2e checks it with a real server."""

from __future__ import annotations

import pytest

from coordinator.commands import COMMANDS
from coordinator.security.permissions import (
    CLIENT_ROLES,
    COMMANDS_OF,
    CORE_ROLES,
    NAMED,
    ROLES,
    Grant,
    User,
    account_of,
    covers,
    grant_of,
    may_publish,
    may_subscribe,
    user_of,
)
from coordinator.security.server_config import Known, accounts_conf, server_conf, tls_conf
from events.errors import Refused
from events.subjects import Subjects

S = Subjects()


@pytest.mark.parametrize(
    ("pattern", "subject", "does"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a.>", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*", ">", False),
    ],
)
def test_a_pattern_covers_what_nats_says_it_does(pattern: str, subject: str, does: bool) -> None:
    """A pattern is covered only by a pattern that matches all of its subjects."""
    assert covers(pattern, subject) is does


def test_what_is_never_granted_is_not_by_a_wider_pattern() -> None:
    """A denial is stronger."""
    grant = Grant(publish=("a.>",), subscribe=(), publish_never=("a.b",))
    assert may_publish(grant, "a.c")
    assert not may_publish(grant, "a.b")
    assert not may_subscribe(grant, "a.c")
    assert may_subscribe(Grant(publish=(), subscribe=("a.*",)), "a.c")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_grant_of_its_own(role: str) -> None:
    """Its own inbox, its own source, and no pattern that ends in everything but JetStream's for the administrator."""
    user = user_of(role, "x1")
    grant = grant_of(user, S, ["execution"])
    assert f"_INBOX.{user.token}.>" in grant.subscribe
    rpc = [one for one in grant.publish if one.startswith("coordination.rpc.")]
    assert {one.split(".")[2] for one in rpc} == ({user.token} if COMMANDS_OF[role] else set())
    assert ">" not in grant.publish + grant.subscribe
    if role != "admin":
        assert not [one for one in grant.publish if one.startswith("$JS.API.") and one.endswith(">")]


def test_the_roles_are_told_apart() -> None:
    """Each role is in one account, and every command can be sent by another role than admin, or is meant not to."""
    assert set(ROLES) == {*CORE_ROLES, *CLIENT_ROLES} == set(COMMANDS_OF)
    assert {account_of(user_of(role, "x"), S) for role in CORE_ROLES} == {"COORDINATION"}
    assert {account_of(user_of(role, "x"), S) for role in CLIENT_ROLES} == {"COORDINATION_CLIENTS"}
    for role, names in COMMANDS_OF.items():
        assert names <= set(COMMANDS), role
    others = frozenset().union(*(names for role, names in COMMANDS_OF.items() if role != "admin"))
    of_queues = {"define_queue", "set_policy", "pause_queue", "resume_queue", "delete_queue"}
    of_queues |= {"hold_tasks", "lift_hold", "define_limit", "delete_limit"}
    of_queues |= {"set_shadow", "promote_policy", "roll_back_policy"}
    of_queues |= {"route_queue", "retire_version", "reinstate_version"}
    of_queues |= {"define_budget", "correct_budget", "remove_budget", "set_prices"}
    of_pools = {"define_pool", "move_share"}
    of_nodes = {"cordon_node", "uncordon_node", "drain_node", "remove_node"}
    assert set(COMMANDS) - others == {"accept_silence", *of_nodes, *of_pools, *of_queues}


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("boss", "x", "role 'boss' is not known: use coordinator, follower"),
        ("worker", "", "role worker needs a name"),
        ("worker", "a.b", "name of the worker 'a.b' is not an identifier"),
        ("worker", "x" * 64, "is not an identifier"),
        ("monitor", ">", "is not an identifier"),
        ("domain", "Execution", "is not a valid name"),
        ("domain", "worker-w1", "could be confused with the role worker"),
        ("domain", "admin", "could be confused with the role admin"),
        ("domain", "coordinator", "is not a valid name"),
    ],
)
def test_a_name_that_is_none_or_anothers_is_refused(role: str, name: str, said: str) -> None:
    """It becomes part of subjects, files and configuration."""
    with pytest.raises(Refused, match=said.replace("(", r"\(")):
        user_of(role, name)


def test_users_go_by_their_tokens() -> None:
    """A domain by its name alone, for that is the source of its events."""
    assert [user_of(role, "x").token for role in NAMED] == ["x", "worker-x", "agents-x", "node-x"]
    assert user_of("admin").token == "admin"
    assert user_of("admin", "jane").token == "admin-jane"


def test_the_configuration_follows_from_the_users_alone() -> None:
    """Whatever their order; it holds public keys and no others."""
    known = [Known(role=role, name="x" if role in NAMED else "", public=f"U{role.upper()}") for role in ROLES]
    text = accounts_conf(known, S)
    assert accounts_conf(list(reversed(known)), S) == text
    assert text.count("nkey:") == len(ROLES)
    assert "allow_responses" in text
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")


def test_nothing_in_the_configuration_can_be_broken_out_of() -> None:
    """Paths are quoted; a key that is none is refused, for it would be read as configuration."""
    assert r'store_dir: "/a \"b\" \\ c"' in server_conf("coordination", "127.0.0.1:4222", '/a "b" \\ c')
    assert r'cert_file: "/a\"b"' in tls_conf('/a"b', "/k")
    assert "tls {" not in tls_conf()
    with pytest.raises(Refused):
        accounts_conf([Known(role="admin", public="U }")], S)
    assert User(role="admin").token == "admin"

"""Settings: what may be set and how, and what is said when something is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import logs
from coordinator.commands.queue import STRATEGIES
from coordinator.deciders.rules import Limits, Rules, TaskRule
from coordinator.leadership.lease import FRESH_S, RENEW_S, STOP_S, TTL_S
from coordinator.processes.coordinator import access_of, limits_of, rules_of
from coordinator.settings.fields import LOOPBACK
from coordinator.settings.file import FILE_BYTES_MOST, find_file
from coordinator.settings.load import load
from coordinator.settings.model import KNOWN_KEYS, PLAIN_NAMES, Settings
from events.agents import AgentType
from events.errors import Refused
from events.resources import NONE, Resources

# The section "Configuration" of the requirements, to the letter.
REQUIRED = """\
container:
  max_containers: 100
  default_timeout: 300
  health_check_interval: 30
  resource_limits:
    cpu: "4"
    memory: "8Gi"
    gpu: "1"
registry:
  cleanup_interval: 60
  health_check_interval: 30
  heartbeat_timeout: 90
  max_services: 1000
scheduler:
  max_concurrent_tasks: 100
  task_timeout_check_interval: 30
  default_strategy: "fifo"
  max_retries: 3
"""

# setting, a value other than the default, field of Rules
RULES: list[tuple[str, Any, str]] = [
    ("container.max_containers", 7, "max_containers"),
    ("container.start_timeout_s", 7.5, "container_start_timeout_s"),
    ("container.restart_backoff_s", 7.5, "restart_backoff_s"),
    ("container.restart_backoff_max_s", 7.5, "restart_backoff_max_s"),
    ("container.restart_reset_s", 7.5, "restart_reset_s"),
    ("registry.max_services", 7, "max_services"),
    ("registry.heartbeat_timeout", 7.5, "heartbeat_timeout_s"),
    ("registry.deregister_after_s", 7.5, "deregister_after_s"),
    ("registry.mass_silence_share", 0.5, "mass_silence_share"),
    ("registry.mass_silence_least", 5, "mass_silence_least"),
    ("registry.check_rise", 7, "check_rise"),
    ("registry.check_fall", 7, "check_fall"),
    ("scheduler.max_pending_tasks", 7, "max_pending_tasks"),
    ("scheduler.max_pending_bytes", 7_777_777, "max_pending_bytes"),
    ("scheduler.max_concurrent_tasks", 7, "max_concurrent_tasks"),
    ("scheduler.max_retries", 7, "max_retries"),
    ("scheduler.poison_after", 7, "poison_after"),
    ("scheduler.cancel_grace_s", 7.5, "cancel_grace_s"),
    ("scheduler.retry_backoff_s", 7.5, "retry_backoff_s"),
    ("scheduler.retry_backoff_max_s", 7.5, "retry_backoff_max_s"),
    ("scheduler.lease_s", 7.5, "lease_s"),
    ("scheduler.worker_timeout_s", 77.5, "worker_timeout_s"),
    ("scheduler.default_strategy", "priority", "default_strategy"),
    ("scheduler.priority_ageing_s", 5.0, "priority_ageing_s"),
    ("scheduler.custom_policy", "policies:Mine", "custom_policy"),
    ("scheduler.policy_window", 7, "policy_window"),
    ("scheduler.policy_deadline_s", 0.5, "policy_deadline_s"),
    ("scheduler.claim_slots_max", 7, "claim_slots_max"),
    ("scheduler.claim_wait_max_s", 7.5, "claim_wait_max_s"),
    ("scheduler.payload_bytes_max", 7777, "payload_bytes_max"),
    ("engine.text_chars_max", 777, "text_chars_max"),
    ("engine.remembered_max", 7777, "remembered_max"),
    ("node.node_lease_s", 7.5, "node_lease_s"),
    ("node.cpu_overcommit", 7.5, "cpu_overcommit"),
]
LIMITS: list[tuple[str, Any, str]] = [
    ("engine.turn_commands", 7, "turn_commands"),
    ("engine.turn_bytes", 777_777, "turn_bytes"),
    ("engine.intake_max", 7, "intake_max"),
    ("inbox.waiting_max", 777, "inbox_max"),
    ("engine.waiting_max", 7, "waiting_max"),
    ("engine.wait_max_s", 7.5, "wait_max_s"),
    ("engine.tick_s", 0.25, "tick_s"),
    ("engine.blind_after_s", 7.5, "blind_after_s"),
    ("engine.retention_s", 7.5, "retention_s"),
    ("engine.ended_kept", 7, "ended_kept"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a `coordinator.yaml` of the developer's own out."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "some.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def refusal(text: str = "") -> str:
    """Say how *text* as the file, with the environment as it is, is refused."""
    with pytest.raises(Refused) as caught:
        load(written(text))
    message = caught.value.message
    assert "pydantic" not in message
    return message


def with_one(key: str, value: object) -> Settings:
    section, _, name = key.partition(".")
    return load(written(f"{section}: {{{name}: {value}}}"))


class TestValues:
    """What is set, and where it comes from."""

    def test_required_sample(self) -> None:
        """The file in the requirements loads as it stands, and says what it says."""
        settings = load(written(REQUIRED))
        assert settings.container.default_timeout == 300
        assert settings.container.resource_limits.given() == {"cpu": "4", "memory": "8Gi", "gpu": "1"}
        limits = Resources.parse(settings.container.resource_limits.given())
        assert limits == Resources(cpu_millis=4000, memory_bytes=8 * 2**30, gpus=1)
        assert (settings.registry.cleanup_interval, settings.registry.max_services) == (60, 1000)
        assert (settings.scheduler.max_concurrent_tasks, settings.scheduler.max_retries) == (100, 3)
        assert rules_of(settings).heartbeat_timeout_s == 90

    def test_defaults_need_no_file(self) -> None:
        """Without a file and variables everything has a value."""
        settings = load()
        assert settings.namespace == "coordination"
        assert settings.registry.health_check_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
        assert (settings.nats.url, settings.nats.replicas, settings.node.runtime) == ("", 1, "process")
        assert (settings.log.level, settings.log.format) == ("info", "auto")

    def test_environment_over_file_over_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A variable beats the file, the file beats the default, key by key."""
        monkeypatch.setenv("COORDINATOR_SCHEDULER__MAX_RETRIES", "5")
        settings = load(written("scheduler: {max_retries: 4, lease_s: 20}"))
        assert (settings.scheduler.max_retries, settings.scheduler.lease_s) == (5, 20)
        assert settings.scheduler.worker_timeout_s == 60

    def test_nested_and_list_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Variables reach every depth; a list may be JSON or plain text."""
        monkeypatch.setenv("COORDINATOR_CONTAINER__RESOURCE_LIMITS__CPU", "500m")
        monkeypatch.setenv("COORDINATOR_REGISTRY__HEALTH_CHECK_NETWORKS", "10.0.0.0/8, 192.168.1.7")
        monkeypatch.setenv("COORDINATOR_AGENTS__REVIEWER__COMMAND", '["review","-v"]')
        monkeypatch.setenv("COORDINATOR_AGENTS__WRITER__COMMAND", "write --to 'a file'")
        settings = load(written("agents: {reviewer: {command: [x], stop_grace_s: 3}}"))
        assert settings.container.resource_limits.given() == {"cpu": "500m"}
        assert settings.registry.health_check_networks == (ip_network("10.0.0.0/8"), ip_network("192.168.1.7"))
        assert settings.agents["reviewer"].command == ("review", "-v")
        assert settings.agents["reviewer"].stop_grace_s == 3
        assert settings.agents["writer"].command == ("write", "--to", "a file")

    def test_empty_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty variable and a section of comments alone leave the defaults."""
        monkeypatch.setenv("COORDINATOR_SCHEDULER__MAX_RETRIES", "")
        assert load(written("scheduler:\n  # max_retries: 4\n")) == load()
        assert load(written("")) == load()

    def test_frozen(self) -> None:
        """Settings do not change once they are read."""
        settings = load()
        with pytest.raises(ValueError, match="frozen"):
            settings.scheduler.max_retries = 9
        with pytest.raises(ValueError, match="frozen"):
            settings.namespace = "other"

    def test_token_is_not_shown(self) -> None:
        """Settings that are printed do not show the URL, which may hold a token."""
        settings = load(written("nats: {url: 'nats://sesame@host:4222'}"))
        assert settings.nats.url == "nats://sesame@host:4222"
        assert "sesame" not in f"{settings!r} {settings}"


class TestAgents:
    """The catalogue of agents."""

    def test_built_in(self) -> None:
        """The built-in agent is always there, with its command where an entry of its name gives none."""
        built_in = ("python", "-m", "coordinator.agent")
        assert load().agents["task_agent"].command == built_in
        settings = load(written("agents: {task_agent: {when_cut_off: keep}, other: {command: [x]}}"))
        assert (settings.agents["task_agent"].command, settings.agents["task_agent"].when_cut_off) == (built_in, "keep")
        assert load(written("agents: {task_agent: {command: [mine]}}")).agents["task_agent"].command == ("mine",)

    @pytest.mark.parametrize("given", ["{zone: eu, disk: ssd}", "'zone=eu,disk=ssd'", "'zone = eu , disk=ssd'"])
    def test_labels_of_a_node(self, given: str) -> None:
        """As a mapping, or in one text as in a variable."""
        found = load(written(f"node: {{labels: {given}}}")).node.labels
        assert {name.strip(): text.strip() for name, text in found.items()} == {"zone": "eu", "disk": "ssd"}

    @pytest.mark.parametrize(
        "given", ["[zone]", "'zone'", "{zone: 7}", "{'a b': x}", "{zone: ''}", "'=eu'", "{'a': \"x\\ny\"}"]
    )
    def test_odd_labels_are_refused(self, given: str) -> None:
        """It says what would be right."""
        with pytest.raises(Refused, match=r"node\.labels is .*such as {zone: eu"):
            load(written(f"node: {{labels: {given}}}"))

    def test_a_node_filter_is_checked(self) -> None:
        """Where it stands, not when a container is created."""
        settings = load(written("agents: {a: {command: [x], node_filter: 'labels.zone == \"eu\"'}}"))
        assert settings.agents["a"].agent_type().node_filter == 'labels.zone == "eu"'
        with pytest.raises(Refused, match="use a condition on node_id, runtime and labels"):
            load(written("agents: {a: {command: [x], node_filter: 'zone =='}}"))

    def test_reaches_the_rules(self) -> None:
        """All that a decision needs of an entry stands in the rules."""
        entry = "{image: i, command: [c, d], when_cut_off: keep, stop_grace_s: 3, limits: {cpu: 2}, move: never}"
        text = f"agents: {{a: {entry}}}"
        settings = load(written(text))
        agent = AgentType(
            image="i",
            command=("c", "d"),
            when_cut_off="keep",
            stop_grace_s=3.0,
            limits=Resources(cpu_millis=2000),
            moves=False,
        )
        assert rules_of(settings).agents["a"] == agent
        limited = load(written("container: {resource_limits: {cpu: 4, memory: 8Gi, gpu: 1}}"))
        most = Resources(cpu_millis=4000, memory_bytes=8 * 1024**3, gpus=1)
        assert (rules_of(settings).resource_limits, rules_of(limited).resource_limits) == (NONE, most)

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("{a: {}}", "agents.a has no command and no image: set one of them"),
            ("{'a b': {image: x}}", "agents: the name 'a b' is not an identifier: use 1 to 64 of A-Z a-z 0-9 _ -"),
            ("{a: {image: 'x y'}}", "agents.a.image is 'x y' (some.yaml line 1): use an image name"),
            ("{a: {command: [x, 5]}}", "agents.a.command.1 is 5 (some.yaml line 1): use a list of strings"),
            ("{a: {command: ['']}}", "use at most 256 words, each of 1 to 4096 characters without NUL"),
            ("{a: {command: 'x \"y'}}", "agents.a.command is 'x \"y' (some.yaml line 1): use a list"),
            ("{a: {when_cut_off: no}}", "agents.a.when_cut_off is False (some.yaml line 1): use stop or keep"),
            ("{image: {when_cut_off: x}}", "agents.image.when_cut_off is 'x' (some.yaml line 1): use stop or keep"),
            (
                "{a: {imgae: x}}",
                "agents.a.imgae is not a setting (some.yaml line 1): the nearest is agents.<name>.image",
            ),
            ("{a: 5}", "agents.a is 5 (some.yaml line 1): it is a section: set its keys, such as agents.a.image"),
            ("5", "agents is 5 (some.yaml line 1): it is a section: set its keys, such as agents.<name>.image"),
        ],
    )
    def test_refused(self, entry: str, said: str) -> None:
        """An entry that cannot work is refused with its name."""
        assert said in refusal(f"agents: {entry}")


class TestTaskRules:
    """Who may submit which tasks."""

    def test_reaches_the_rules(self) -> None:
        """In the order of the file, which decides; what is not set means all."""
        text = (
            "security:\n  tasks:\n"
            "    pay: {users: [billing, 'cli-*'], tenants: [acme], task_names: ['pay.*'], queues: [payments],"
            " agent_types: [task_agent], nodes: [n1, n2]}\n"
            "    all: {}\n"
        )
        settings = load(written(text))
        assert rules_of(settings).task_rules == (
            TaskRule(
                name="pay",
                users=("billing", "cli-*"),
                tenants=("acme",),
                task_names=("pay.*",),
                queues=("payments",),
                agent_types=("task_agent",),
                nodes=("n1", "n2"),
            ),
            TaskRule(name="all"),
        )
        assert access_of(settings) is None

    def test_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lists are words, separated by commas."""
        monkeypatch.setenv("COORDINATOR_SECURITY__TASKS__MINE__USERS", "ann, cli-*")
        assert rules_of(load()).task_rules == (TaskRule(name="mine", users=("ann", "cli-*")),)

    @pytest.mark.parametrize(
        ("rule", "said"),
        [
            (
                "{pay: {user: [x]}}",
                "security.tasks.pay.user is not a setting (some.yaml line 1): the nearest is",
            ),
            ("{pay: {users: 5}}", "security.tasks.pay.users is 5 (some.yaml line 1): use a list of strings"),
            ("{pay: {users: [5]}}", "security.tasks.pay.users.0 is 5 (some.yaml line 1): use a list of strings"),
            ("{pay: {users: []}}", "security.tasks.pay.users is [] (some.yaml line 1): use 1 to 256 names, or leave"),
            ("{pay: {users: ['a.b']}}", "'a.b' is not a name: use letters, digits, _ and -, and * for any text"),
            ("{pay: {users: ['']}}", "'' is not a name: use letters, digits, _ and -, and * for any text"),
            (
                "{pay: {tenants: ['a b']}}",
                "pay.tenants is ['a b'] (some.yaml line 1): 'a b' is not a name",
            ),
            ("{pay: {queues: ['?']}}", "'?' is not a name: use letters, digits, _ and -, and * for any text"),
            ("{pay: {task_names: ['']}}", "'' is not a name of tasks: use 1 to 128 characters, * for any text"),
            ('{pay: {task_names: ["a\\nb"]}}', "is not a name of tasks: use 1 to 128 characters, * for any text"),
            (
                "{pay: {agent_types: ['*']}}",
                "pay.agent_types is ['*'] (some.yaml line 1): id '*' is not an",
            ),
            ("{pay: {nodes: ['a b']}}", "pay.nodes is ['a b'] (some.yaml line 1): id 'a b' is not an"),
            (
                "{pay: {agent_types: [secure]}}",
                "tasks.pay.agent_types names 'secure', which is none of agents",
            ),
            ("{'a b': {}}", "security.tasks: the name 'a b' is not an identifier"),
            (
                "[x]",
                "security.tasks is ['x'] (some.yaml line 1): it is a section: set its keys, such",
            ),
            (f"{{pay: {{nodes: [{', '.join(['n'] * 101)}]}}}}", "use at most 100 names"),
            (
                f"{{pay: {{nodes: [{', '.join(f'{number:060}n' for number in range(30))}]}}}}",
                "nodes that are 1961 characters as a filter of workers: use at most 1000, as by fewer names",
            ),
        ],
    )
    def test_refused(self, rule: str, said: str) -> None:
        """A rule that cannot work is refused with its name and its value."""
        assert said in refusal(f"security: {{tasks: {rule}}}")


class TestRulesAndLimits:
    """The settings as decisions and the engine see them."""

    def test_defaults_agree(self) -> None:
        """Rules and limits made from default settings are those that code without settings uses."""
        assert rules_of(load()) == Rules()
        assert limits_of(load()) == Limits()

    def test_all_are_reachable(self) -> None:
        """Each field of the rules and limits can be set."""
        assert {"agents", "resource_limits", "task_rules", *(field for _, _, field in RULES)} == set(
            Rules.__struct_fields__
        )
        assert {field for _, _, field in LIMITS} == set(Limits.__struct_fields__)

    @pytest.mark.parametrize(("key", "value", "field"), RULES)
    def test_reaches_the_rules(self, key: str, value: object, field: str) -> None:
        """A setting changes the one rule that it names, and no other."""
        rules = rules_of(with_one(key, value))
        changed = {name for name in Rules.__struct_fields__ if getattr(rules, name) != getattr(Rules(), name)}
        assert (changed, getattr(rules, field)) == ({field}, value)

    @pytest.mark.parametrize(("key", "value", "field"), LIMITS)
    def test_reaches_the_limits(self, key: str, value: object, field: str) -> None:
        """A setting changes the one limit that it names, and no other."""
        limits = limits_of(with_one(key, value))
        changed = {name for name in Limits.__struct_fields__ if getattr(limits, name) != getattr(Limits(), name)}
        assert (changed, getattr(limits, field)) == ({field}, value)

    @pytest.mark.parametrize("key", ["scheduler.task_timeout_check_interval", "registry.cleanup_interval"])
    def test_intervals_bound_the_tick(self, key: str) -> None:
        """A shorter check interval shortens the tick; a longer one changes nothing."""
        assert limits_of(with_one(key, 0.1)).tick_s == 0.1
        assert limits_of(with_one(key, 20)).tick_s == Limits().tick_s

    def test_agrees_with_others(self) -> None:
        """Values that are defined here and elsewhere agree."""
        assert get_args(KNOWN_KEYS["scheduler.default_strategy"].annotation) == STRATEGIES
        assert get_args(KNOWN_KEYS["log.level"].annotation) == tuple(logs.LEVELS)
        assert get_args(KNOWN_KEYS["log.format"].annotation) == logs.FORMATS
        lease = load().leadership
        assert (lease.ttl_s, lease.renew_s, lease.fresh_s, lease.stop_after_s) == (TTL_S, RENEW_S, FRESH_S, STOP_S)

    def test_every_number_has_bounds(self) -> None:
        """No number is without a lower and an upper bound, and every key says what it is."""
        for key, field in KNOWN_KEYS.items():
            assert field.description, key
            if field.annotation in {int, float}:
                sides = {side for bound in field.metadata for side in ("ge", "le") if hasattr(bound, side)}
                assert sides == {"ge", "le"}, key


class TestWrongValues:
    """The message about a wrong value."""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("scheduler:\n  max_retries: -1", "scheduler.max_retries is -1 (some.yaml line 2): use a whole"),
            ("scheduler: {max_retries: many}", "scheduler.max_retries is 'many' (some.yaml line 1): use a"),
            ("scheduler: {max_retries: 1.5}", "scheduler.max_retries is 1.5"),
            ("scheduler: {max_retries: yes}", "scheduler.max_retries is True (some.yaml line 1): use a whole number"),
            ("scheduler: {lease_s: .nan}", "lease_s is nan (some.yaml line 1): use a number from 0.05 to 86400"),
            ("scheduler: {lease_s: .inf}", "lease_s is inf (some.yaml line 1): use a number from 0.05 to 86400"),
            ("scheduler: {default_strategy: lifo}", "use fifo or priority or round_robin or least_loaded"),
            ("scheduler: [1]", "scheduler is [1] (some.yaml line 1): it is a section: set its keys, such as"),
            ("engine: {turn_bytes: 1000000}", "engine.turn_bytes is 1000000 (some.yaml line 1): use a whole"),
            ("container: {resource_limits: {cpu: lots}}", "resource_limits.cpu is 'lots' (some.yaml line 1)"),
            ("container: {resource_limits: {memory: -1}}", "use a number ≥ 0, or text such as '500m', '1.5', '2Gi'"),
            (
                "container: {resource_limits: {gpu: [1]}}",
                "container.resource_limits.gpu is [1] (some.yaml line 1): use",
            ),
            (
                "registry: {health_check_networks: [10.0.0.1/8]}",
                "'10.0.0.1/8' is not a network: use e.g. 10.0.0.0/8",
            ),
            ("registry: {health_check_networks: [7]}", "'7' is not a network"),
            ("registry: {health_check_networks: 7}", "use a list of at most 256 networks, such as 10.0.0.0/8"),
            ("namespace: a.b", "namespace is 'a.b' (some.yaml line 1): use 1 to 64 of A-Z a-z 0-9 _ -"),
            ("node: {node_id: a.b}", "node.node_id is 'a.b' (some.yaml line 1): use 1 to 64 of A-Z"),
            ("node: {runtime: lxc}", "node.runtime is 'lxc' (some.yaml line 1): use process or docker or oci or fake"),
            ("nats: {replicas: 2}", "nats.replicas is 2 (some.yaml line 1): use 1, 3 or 5"),
            ("nats: {replicas: x}", "nats.replicas is 'x' (some.yaml line 1): use a whole number from 1 to 5"),
            ("nats: {creds: 5}", "nats.creds is 5 (some.yaml line 1): use a path (file of credentials)"),
            ("nats: {creds: ''}", "nats.creds is '' (some.yaml line 1): use the path of a file or directory, or leave"),
            (
                "nats: {creds: ~nobody-of-this-name/x}",
                "write the full path: the home directory that `~` means is unknown",
            ),
        ],
    )
    def test_refused(self, text: str, said: str) -> None:
        """A wrong value is refused with its key, itself, its line, and what would be right."""
        assert said in refusal(text)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("leadership: {renew_s: 9}", "leadership.fresh_s is 6: use at least leadership.renew_s (9), because"),
            (
                "leadership: {ttl_s: 12, stop_after_s: 13}",
                "leadership.ttl_s is 12: use at least leadership.stop_after_s",
            ),
            (
                "leadership: {renew_s: 7.8, fresh_s: 8}",
                "leadership.ttl_s is 12: use at least 2 × leadership.renew_s (7.8), because",
            ),
            ("scheduler: {default_strategy: custom}", "name the class in scheduler.custom_policy"),
            (
                "scheduler: {retry_backoff_s: 61}",
                "scheduler.retry_backoff_max_s is 60: use at least scheduler.retry_back",
            ),
            (
                "scheduler: {worker_timeout_s: 5}",
                "scheduler.worker_timeout_s is 5: use at least 0.5 × scheduler.lease_s",
            ),
            (
                "container: {restart_backoff_s: 301}",
                "container.restart_backoff_max_s is 300: use at least container.rest",
            ),
            (
                "registry: {health_check_interval: 1}",
                "registry.health_check_interval is 1: use at least registry.health",
            ),
            (
                "node: {node_lease_s: 2}",
                "2 syncs take 2 × (node.sync_interval_s (1) + a time-out of 0.2 × node.node_lease_s (0.4)) = 2.8 s",
            ),
            (
                "client: {call_timeout_s: 1}",
                "client.call_timeout_s is 1: use at least client.attempt_timeout_s (2), because",
            ),
            (
                "engine: {turn_bytes: 100000}",
                "engine.turn_bytes is 100000: use at least 2 × scheduler.payload_bytes_max",
            ),
        ],
    )
    def test_refused_together(self, text: str, said: str) -> None:
        """Values that are right alone and contradict each other are refused, both named, with the reason."""
        assert said in refusal(text)

    def test_variable_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong value from the environment is reported with the name of its variable, as spelled there."""
        monkeypatch.setenv("COORDINATOR_SCHEDULER__MAX_RETRIES", "many")
        monkeypatch.setenv("coordinator_engine__tick_s", "0")
        message = refusal("scheduler: {max_retries: 2}")
        assert "scheduler.max_retries is 'many' ($COORDINATOR_SCHEDULER__MAX_RETRIES): use" in message
        assert "engine.tick_s is '0' ($coordinator_engine__tick_s): use a number from 0.01 to 60 (interval" in message

    def test_section_is_no_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A whole section in one variable is refused with the name of one that would do."""
        monkeypatch.setenv("COORDINATOR_SCHEDULER", '{"max_retries": 5}')
        assert "($COORDINATOR_SCHEDULER): it is a section: set its keys, such as scheduler." in refusal()

    def test_all_are_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One message lists everything that is wrong, a line each."""
        monkeypatch.setenv("COORDINATOR_LOG_LEVEL", "debug")
        message = refusal("schedular: {}\nscheduler: {max_retries: -1, lease_s: 0}\nnode: {runtime: x}")
        first, *lines = message.splitlines()
        assert first == "5 settings are wrong:"
        assert len(lines) == 5

    @pytest.mark.parametrize(
        "text",
        [
            "nats: {url: 'http://sesame@host'}",
            "nats: {url: 'sesame@host'}",
            "nats: sesame@host",
            "nats: {token: sesame}",
            "namespace: 'nats://sesame@host:4222'",
            "namespace: ['nats://sesame@host:4222']",
            f"namespace: 'nats://sesame{'x' * 200}@host:4222'",
            "'nats://sesame@host': 1",
            "scheduler: {a: *b, c: 'nats://sesame@host'}",
            "scheduler: {? [a] : 'nats://sesame@host'}",
        ],
    )
    def test_tokens_are_not_told(self, text: str) -> None:
        """No message repeats a token, wherever it was put by mistake."""
        assert "sesame" not in refusal(text)

    def test_health_checks_on_another_nats_need_a_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Loopback is the default with our own server only; what is listed is taken as it is."""
        assert load(written("nats: {url: 'nats://host:4222'}")).registry.health_check_networks == ()
        assert load(written("registry: {check_fall: 3}")).registry.health_check_networks == LOOPBACK
        both = "nats: {url: 'nats://host:4222'}\nregistry: {health_check_networks: [127.0.0.0/8], check_fall: 3}"
        assert load(written(both)).registry.health_check_networks == (ip_network("127.0.0.0/8"),)
        monkeypatch.setenv("COORDINATOR_NATS__URL", "nats://host:4222")
        of_env = load(written("registry: {check_fall: 3}")).registry
        assert (of_env.health_check_networks, of_env.check_fall) == ((), 3)
        monkeypatch.setenv("COORDINATOR_REGISTRY__HEALTH_CHECK_NETWORKS", "[]")
        monkeypatch.delenv("COORDINATOR_NATS__URL")
        assert load().registry.health_check_networks == ()

    def test_several_servers(self) -> None:
        """A URL may name several servers."""
        assert load(written("nats: {url: 'nats://a:1,tls://b:2'}")).nats.url == "nats://a:1,tls://b:2"


class TestUnknownKeys:
    """The message about an unknown key or variable."""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("schedulr: {max_retries: 5}", "schedulr is not a setting (some.yaml line 1): the nearest is scheduler"),
            ("max_retries: 5", "max_retries is not a setting (some.yaml line 1): the nearest is scheduler.max_retries"),
            (
                "x: 1\nscheduler:\n  max_retrys: 5",
                "scheduler.max_retrys is not a setting (some.yaml line 3): the nearest",
            ),
            ("5: x", "5 is not a setting"),
            ("scheduler: {5: x}", "scheduler.5 is not a setting"),
            ("_env_prefix: X", "_env_prefix is not a setting"),
            ('"a\\nb": x', "'a\\nb' is not a setting"),
        ],
    )
    def test_in_the_file(self, text: str, said: str) -> None:
        """An unknown key is refused with the nearest known one."""
        assert said in refusal(text)

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("COORDINATOR_LOG_LEVEL", "COORDINATOR_LOG__LEVEL"),
            ("COORDINATOR_SCHEDULR__MAX_RETRIES", "COORDINATOR_SCHEDULER__MAX_RETRIES"),
            ("COORDINATOR_NAMESPACE__X", "COORDINATOR_NAMESPACE"),
            ("COORDINATOR_CONFIGS", "COORDINATOR_CONFIG"),
            ("coordinator_urls", "COORDINATOR_URL"),
        ],
    )
    def test_in_the_environment(self, name: str, nearest: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An unknown variable with our prefix is refused with the nearest known one, without its value."""
        monkeypatch.setenv(name, "sesame")
        assert refusal() == f"${name} is not a setting: the nearest is ${nearest}"

    def test_below_a_section(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A variable with a known section and an unknown key is refused too."""
        monkeypatch.setenv("COORDINATOR_SCHEDULER__MAX_RETRYS", "5")
        assert refusal() == (
            "scheduler.max_retrys is not a setting ($COORDINATOR_SCHEDULER__MAX_RETRYS):"
            " the nearest is scheduler.max_retries"
        )

    def test_plain_names_pass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Variables with our prefix that are not settings, and those that Kubernetes injects, are ignored."""
        injected = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"]
        for name in PLAIN_NAMES - {"COORDINATOR_CONFIG"} | {f"COORDINATOR_{name}" for name in injected}:
            monkeypatch.setenv(name, "x")
        load()

    def test_code_and_settings_agree(self) -> None:
        """Every variable of ours that the code speaks of is a setting or a plain name."""
        root = Path(__file__).parents[3]
        files = [root / "nats.conf", *(root / "coordinator").rglob("*.py")]
        text = "\n".join(file.read_text("utf-8") for file in files)
        named = set(re.findall(r"\bCOORDINATOR_[A-Z_]*[A-Z]\b", text))
        settings = {f"COORDINATOR_{key.replace('.', '__').upper()}" for key in KNOWN_KEYS}
        assert {"COORDINATOR_HOME", "COORDINATOR_URL"} <= named <= settings | PLAIN_NAMES

    def test_twice(self) -> None:
        """A repeated key in one section is refused; YAML would use the last one."""
        message = refusal("scheduler:\n  lease_s: 1\n  max_retries: 1\n  lease_s: 2")
        assert message == "config file some.yaml line 4 repeats scheduler.lease_s of line 2: remove one of them"


class TestFile:
    """Which file is read, and the message when it cannot be read."""

    def test_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The argument comes before the variable, that before the current directory, that before the user's own."""
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        assert find_file() is None
        written("scheduler: {max_retries: 11}", "config/coordinator/coordinator.yaml")
        assert load().scheduler.max_retries == 11
        written("scheduler: {max_retries: 12}", "coordinator.yaml")
        assert load().scheduler.max_retries == 12
        monkeypatch.setenv("COORDINATOR_CONFIG", str(written("scheduler: {max_retries: 13}", "variable.yaml")))
        assert load().scheduler.max_retries == 13
        assert load(written("scheduler: {max_retries: 14}")).scheduler.max_retries == 14

    def test_user_without_config_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without XDG_CONFIG_HOME the user's own file is in `~/.config`; a relative one does not count."""
        monkeypatch.setenv("HOME", str(tmp_path))
        path = written("namespace: mine", ".config/coordinator/coordinator.yaml").absolute()
        for value in ("relative", ""):
            monkeypatch.setenv("XDG_CONFIG_HOME", value)
            assert find_file() == path

    def test_named_and_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is named must exist."""
        with pytest.raises(Refused, match=r"config file no\.yaml does not exist: name an existing file \(--config\)"):
            load(Path("no.yaml"))
        monkeypatch.setenv("COORDINATOR_CONFIG", "none.yaml")
        with pytest.raises(Refused, match=r"config file none\.yaml does not exist: .* \(\$COORDINATOR_CONFIG\)"):
            load()

    def test_directory(self) -> None:
        """A directory in the file's place, as container engines make for a missing mount, is refused."""
        Path("coordinator.yaml").mkdir()
        with pytest.raises(Refused, match=r"config file coordinator\.yaml cannot be read: Is a directory"):
            load()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: 1\nb: [1, 2\nc: 3\n", "config file some.yaml line 3 is not YAML: "),
            ("a: 1\n\tb: 2\n", "config file some.yaml line 2 is not YAML: found character '\\t'"),
            ("a: !!python/name:os.system ''\n", "config file some.yaml line 1 is not YAML: could not determine"),
            ("a: 1\n---\nb: 2\n", "config file some.yaml line 2 is not YAML: but found another document"),
            ("a: 2026-99-99", "config file some.yaml is not YAML in UTF-8: month must be in 1..12"),
            ("[" * 20_000, "config file some.yaml is not YAML in UTF-8: maximum recursion depth exceeded"),
            ("a: \x00", "config file some.yaml is not YAML: special characters are not allowed"),
            ("[1, 2]", "config file some.yaml is not a mapping of at most 1048576 bytes: use e.g. 'scheduler: "),
            ("#" * (FILE_BYTES_MOST + 1), "config file some.yaml is not a mapping of at most 1048576 bytes"),
        ],
    )
    def test_not_yaml(self, text: str, said: str) -> None:
        """A file that is no YAML mapping is refused with its name and, where there is one, the line."""
        assert said in refusal(text)

    def test_not_utf8(self) -> None:
        """A file in another encoding is refused; a byte order mark is let be."""
        Path("some.yaml").write_bytes("namespace: ä".encode("latin-1"))
        with pytest.raises(Refused, match=r"some\.yaml is not YAML in UTF-8: 'utf-8' codec can't decode byte 0xe4"):
            load(Path("some.yaml"))
        Path("some.yaml").write_bytes(b"\xef\xbb\xbfnamespace: mine")
        assert load(Path("some.yaml")).namespace == "mine"

    def test_aliases(self) -> None:
        """Aliases and merges work; one that holds itself, or grows without bound, is refused in a short message."""
        text = "container: &c {max_containers: 9}\nscheduler: {<<: {lease_s: 9}, max_retries: 9}\nlog: {}\n"
        assert load(written(text)).scheduler.lease_s == 9
        assert len(refusal("scheduler: &s {max_retries: *s}")) < 1000
        bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        assert len(refusal(f"{bomb}namespace: *a29\n")) < 10_000

    @given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,? \n\t0159.~<"), max_size=40))
    def test_anything(self, text: str) -> None:
        """Whatever stands in the file, it is loaded or refused."""
        with suppress(Refused):
            load(written(text))


class TestHome:
    """Where state is kept."""

    def test_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """State is where COORDINATOR_HOME says, else below XDG_STATE_HOME, else in `~/.local/state`."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
        monkeypatch.setenv("COORDINATOR_HOME", "~/mine")
        assert load().home_path() == tmp_path / "mine"
        monkeypatch.delenv("COORDINATOR_HOME")
        assert load().home_path() == Path("/xdg/coordinator")
        monkeypatch.setenv("XDG_STATE_HOME", "relative")
        assert load().home_path() == tmp_path / ".local/state/coordinator"
        assert load(written("home: here")).home_path() == tmp_path / "here"

    def test_unknown_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An unknown home directory is reported."""
        monkeypatch.delenv("COORDINATOR_HOME")
        monkeypatch.delenv("XDG_STATE_HOME")

        def without_home() -> Path:
            raise RuntimeError

        monkeypatch.setattr(Path, "home", without_home)
        with pytest.raises(Refused, match="the home directory of this user is unknown: set COORDINATOR_HOME"):
            load().home_path()


def test_import_is_light() -> None:
    """Importing the settings brings neither NATS, nor the engine, nor structlog, which costs as much again."""
    heavy = {"nats", "structlog", "rich", "coordinator.engine.engine"}
    script = f"import sys, coordinator.settings.model; print(sorted({heavy!r} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=os.environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"

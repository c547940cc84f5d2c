"""
The settings of a process: environment over YAML file over defaults, read once, then frozen.

    coordinator.yaml    scheduler: {max_retries: 5}
    environment         COORDINATOR_SCHEDULER__MAX_RETRIES=5      an empty value counts as not set

Nothing is accepted silently: an unknown key is refused with the nearest known one, and one message lists everything
that is wrong, each with its key, its value, its place, and what is allowed. Importing this takes half a second, so only
processes that need settings do so; decisions get `Rules` and the engine `Limits`, never this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coordinator.deciders.rules import BUILT_IN
from coordinator.settings import sections
from coordinator.settings.fields import Identifier, Location, apart, keys_of, of_no_other_type
from coordinator.settings.sections import AgentSettings, FeedSettings, FollowerSettings, InboxSettings, RegistrySettings
from coordinator.settings.security import SecuritySettings
from events.errors import Refused
from events.ids import checked

PREFIX = "COORDINATOR_"
PLAIN_NAMES = frozenset(
    PREFIX + name
    for name in (
        *("CONFIG", "URL", "PARENT_FD", "BUILD_ID"),
        *("NATS_PORT", "NATS_STORE", "NATS_TOKEN", "HTTP_PORT"),
        *("AGENT_TYPE", "CONTAINER_ID", "GENERATION", "NODE_ID", "HANDLERS", "WORKER_SLOTS"),  # in containers
    )
)
"""Variables with our prefix that are not settings but are read by, or passed to, a process."""

DELIMITER = "__"


class Settings(BaseSettings):
    """All settings; arguments take the place of the file's content, so the environment overrides them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    namespace: Identifier = Field(default="coordination", description="first word of every subject and stream")
    home: Location | None = Field(default=None, description="directory of all state")
    container: sections.ContainerSettings = sections.ContainerSettings()
    registry: RegistrySettings = RegistrySettings()
    scheduler: sections.SchedulerSettings = sections.SchedulerSettings()
    agents: dict[str, AgentSettings] = Field(default={}, description="what each agent_type runs")
    engine: sections.EngineSettings = sections.EngineSettings()
    feed: FeedSettings = FeedSettings()
    node: sections.NodeSettings = sections.NodeSettings()
    inbox: InboxSettings = InboxSettings()
    leadership: sections.LeadershipSettings = sections.LeadershipSettings()
    nats: sections.NatsSettings = sections.NatsSettings()
    follower: FollowerSettings = FollowerSettings()
    client: sections.ClientSettings = sections.ClientSettings()
    security: SecuritySettings = SecuritySettings()
    log: sections.LogSettings = sections.LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_other_types(cls, value: object) -> object:
        return of_no_other_type(value)

    @field_validator("agents")
    @classmethod
    def _complete(cls, given: dict[str, AgentSettings]) -> dict[str, AgentSettings]:
        """Add the built-in agent types; one of the same name keeps its command unless it sets another or an image."""
        catalogue = {name: AgentSettings() for name in BUILT_IN} | given
        for name, agent in catalogue.items():
            try:
                checked(name, "agents: the name")
            except Refused as refused:
                raise apart(refused.message) from None
            if agent.command or agent.image:
                continue  # an image may have a command of its own
            if name not in BUILT_IN:
                raise apart(f"agents.{name} has no command and no image: set one of them")
            catalogue[name] = agent.model_copy(update={"command": BUILT_IN[name].command})
        return catalogue

    @model_validator(mode="after")
    def _check(self) -> Self:
        payload, turn = self.scheduler.payload_bytes_max, self.engine.turn_bytes
        if payload * 2 > turn:
            why = f"use at least 2 × scheduler.payload_bytes_max ({payload}), because quoting makes a payload longer"
            raise apart(f"engine.turn_bytes is {turn}: {why}")
        for name, rule in self.security.tasks.items():
            for agent_type in rule.agent_types:
                if agent_type not in self.agents:
                    raise apart(
                        f"security.tasks.{name}.agent_types names {agent_type!r}, which is none of agents: use "
                        f"{', '.join(self.agents)}"
                    )
        if self.nats.url and "health_check_networks" not in self.registry.model_fields_set:
            # Whoever registers on that NATS may be on another machine: loopback there is not loopback here.
            registry = self.registry.model_copy(update={"health_check_networks": ()})
            registry.model_fields_set.discard("health_check_networks")  # it is still a default
            object.__setattr__(self, "registry", registry)
        return self

    def home_path(self) -> Path:
        """
        Return the directory of all state; it may not exist yet.

        Raises:
            Refused: neither the settings nor the system define it.
        """
        if self.home is not None:
            return self.home
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        try:
            # The XDG specification says that a relative path is ignored.
            return (state if state.is_absolute() else Path.home() / ".local/state") / "coordinator"
        except RuntimeError:
            raise Refused(f"the home directory of this user is unknown: set {PREFIX}HOME", reason="no_home") from None


KNOWN_KEYS = dict(keys_of(Settings))
"""Every key, dotted, with its field; `<name>` stands for a name that the user chooses."""

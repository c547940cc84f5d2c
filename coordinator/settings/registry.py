"""The settings of the registry: how services are watched, and when silence is taken for an end."""

from __future__ import annotations

from coordinator.settings.sections import DAY_S, LOOPBACK, Networks, Section, number, plain


class RegistrySettings(Section):
    """Services: when one counts as healthy, silent, gone."""

    cleanup_interval: float = number(60.0, 0.05, DAY_S, "seconds at most between two looks for services to forget")
    health_check_interval: float = number(30.0, 0.05, DAY_S, "seconds between two checks of a service")
    heartbeat_timeout: float = number(90.0, 0.05, DAY_S, "seconds of silence after which a service is offline")
    max_services: int = number(10_000, 1, 1_000_000, "services that may be registered at a time")
    health_check_networks: Networks = plain(LOOPBACK, "networks that health checks may connect to")
    health_check_timeout_s: float = number(2.0, 0.05, 300.0, "one check of a service takes no longer")
    health_checks_at_once: int = number(100, 1, 10_000, "checks under way at a time; further ones wait")
    check_rise: int = number(2, 1, 100, "checks in a row that must pass before a service is healthy again")
    check_fall: int = number(2, 1, 100, "checks in a row that must fail before a service is unhealthy")
    deregister_after_s: float = number(3600.0, 0.0, 30 * DAY_S, "a service offline so long is deregistered")

    mass_silence_share: float = number(
        0.15,
        0.0,
        1.0,
        "if a larger share of services, workers or nodes falls silent at once, none is given up",
    )
    mass_silence_least: int = number(10, 1, 1_000_000, "fewer that fall silent are given up, whatever share they are")

    IN_ORDER = (("health_check_timeout_s", "health_check_interval", 1, "a check ends before the next begins"),)

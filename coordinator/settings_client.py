"""The section `client` of the settings; nothing is read here, see `settings`."""

from __future__ import annotations

from coordinator.settings_sections import Section, number


class ClientSettings(Section):
    """The remote side of the doors."""

    # The writer remembers orders for ten minutes: one resent later than that could happen twice.
    call_timeout_s: float = number(30.0, 0.05, 300.0, "a call gives up after so long")
    attempt_timeout_s: float = number(2.0, 0.02, 300.0, "an attempt without answer is sent again after so long")
    discovery_refresh_s: float = number(5.0, 0.1, 3600.0, "between two looks at the loads of services chosen by load")
    discovery_stale_s: float = number(10.0, 2.0, 3600.0, "services not heard of for so long are asked for, not assumed")
    discovery_services_max: int = number(20_000, 1, 1_000_000, "with more services each discovery asks the coordinator")

    IN_ORDER = (("attempt_timeout_s", "call_timeout_s", 1, "a call consists of attempts"),)

"""An event-sourced coordinator for fleets of agents: containers, services and tasks over NATS JetStream."""

from typing import TYPE_CHECKING

from coordinator.lazy_exports import lazy_exports
from coordinator.own_packages import check_own_packages
from coordinator.version import __version__ as __version__

if TYPE_CHECKING:
    from coordinator.app.subscribe import EventStream, subscribe
    from coordinator.commands.acting import acting

check_own_packages()

__all__ = ["EventStream", "acting", "subscribe"]

__getattr__ = lazy_exports(
    __name__,
    {
        "EventStream": "coordinator.app.subscribe",
        "acting": "coordinator.commands.acting",
        "subscribe": "coordinator.app.subscribe",
    },
)

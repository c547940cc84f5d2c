"""An event-sourced coordinator for fleets of agents: containers, services and tasks over NATS JetStream."""

__version__ = "0.1.0"

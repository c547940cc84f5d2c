"""The contract: what happens in a cluster, as values. Other domains import this package only."""

__distribution__ = "coordinator"  # `coordinator.own_packages` looks for this line

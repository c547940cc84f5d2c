"""The folds of events into states, and the read model made from them. Nothing here decides."""

__distribution__ = "coordinator"  # `coordinator.own_packages` looks for this line

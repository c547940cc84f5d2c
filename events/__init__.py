"""The contract: what happens in a cluster, as values. Other domains import this package only."""

"""One honest client beside each of twelve hostile ones, on a cluster with users: `scenario` says what is measured."""

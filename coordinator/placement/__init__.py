"""Which ready task goes to which waiting worker, and why one goes to none. Pure."""

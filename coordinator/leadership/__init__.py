"""Which instance writes: standby, taking the lease, leading, resigning."""

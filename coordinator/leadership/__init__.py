"""Who writes: stand by, win the lease, lead, give up."""

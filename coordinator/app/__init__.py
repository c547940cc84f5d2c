"""What the public faces stand on: one app per program, its leases, and where its coordinator is."""

"""The remote side: asks a coordinator over NATS, and keeps a watched copy of its services."""

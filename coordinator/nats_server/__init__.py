"""A nats-server process on this machine: find the program, start it, keep it running."""

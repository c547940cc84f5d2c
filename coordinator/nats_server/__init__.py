"""The real nats-server on this machine: find the program, start it, keep it running."""

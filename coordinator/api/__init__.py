"""AsyncAPI description of the NATS protocol."""

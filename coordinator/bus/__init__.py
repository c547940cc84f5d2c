"""One NATS connection: publish, request, subscribe, and JetStream."""

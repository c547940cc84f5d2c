"""The journal: slots on JetStream, reading and replaying them, and proof of where they end."""

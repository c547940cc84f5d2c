"""The doors on NATS, where commands and heartbeats come in: RPC, heartbeats, inboxes."""

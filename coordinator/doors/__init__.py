"""Where commands come in on NATS: RPC, heartbeats, inboxes."""

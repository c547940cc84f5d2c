"""The client of a coordinator: sends commands over NATS, and keeps a watched copy of the services."""

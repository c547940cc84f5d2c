"""Runs containers by an OCI runtime, `runc`, `crun` or `runsc`, without a daemon."""

"""Looks at services: probes by HTTP, TCP or a custom check, and reports the outcome."""

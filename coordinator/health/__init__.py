"""Health checks of services: probe them by HTTP, TCP or a custom check, and report the outcomes."""

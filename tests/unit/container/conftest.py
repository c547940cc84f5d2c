"""The fixtures of the facade tests."""

from tests.facades import app, embedded_app, here, logs_as_before

__all__ = ["app", "embedded_app", "here", "logs_as_before"]

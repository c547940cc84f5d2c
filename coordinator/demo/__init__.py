"""The demo: a temporary cluster with real tasks."""

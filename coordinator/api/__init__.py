"""The wire, described: AsyncAPI."""

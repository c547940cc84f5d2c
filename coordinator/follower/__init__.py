"""The read process: read model, feed, snapshots and questions about the past. It decides nothing."""

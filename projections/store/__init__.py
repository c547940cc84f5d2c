"""The read model: rows in SQLite or in memory; it may be deleted at any time and is rebuilt from the journal."""

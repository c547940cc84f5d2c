"""The read model: rows on SQLite, or in memory; may be deleted at any moment and is rebuilt from the journal."""

"""Backups of the journal: create, restore, and the drill that proves a restore."""

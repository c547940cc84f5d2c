"""Copies of the journal, how they are restored, and what they are worth."""

"""One machine's node agent: makes containers what they are desired to be, and reports what it sees."""

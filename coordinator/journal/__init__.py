"""The journal: its slots on JetStream, how they are read and replayed, and how a lost tail is detected."""

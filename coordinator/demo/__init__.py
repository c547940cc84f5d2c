"""The whole system at work, for people to look at."""

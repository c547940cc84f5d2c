"""The folds of events into states, and the read model made from them. Nothing here decides."""

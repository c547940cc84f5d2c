"""Assembles each process from its parts; the only place that turns settings into values."""

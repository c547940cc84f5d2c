"""Checks for operators: `coordinator doctor` and `coordinator verify`."""

"""Runs containers as process groups of this machine: a shim, a directory and a log for each."""

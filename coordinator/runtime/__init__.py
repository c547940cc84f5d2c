"""Container runtimes: one protocol, and a folder or file for each implementation."""

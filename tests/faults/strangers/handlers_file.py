"""Where the handlers of the honest worker are, and what they are told; importing them opens the file."""

from __future__ import annotations

from pathlib import Path

HANDLERS = Path(__file__).with_name("handlers.py")
STARTS = "STARTS_FILE"
"""The variable with the file that has the number and the time of each start, by the machine's monotonic clock."""

"""
Run a program with uvloop's event loop, as servers such as uvicorn run theirs.

    python -m tests.on_uvloop examples/worker.py
    python -m tests.on_uvloop -m tests.documents README.md
"""

from __future__ import annotations

import asyncio
import runpy
import sys

import uvloop


def main() -> None:
    """Run the program that the command line names, with the arguments after it."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    is_module = sys.argv[1] == "-m"
    sys.argv = sys.argv[2 if is_module else 1 :]
    (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

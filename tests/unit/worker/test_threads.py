"""What an interrupted thread leaves behind in its process: nothing."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys, threading
from coordinator.worker.threads import Threads

class Stop(BaseException):
    pass

def traced(*_):
    return traced

async def main():
    threads, whom, began = Threads("t"), object(), threading.Event()

    def call():
        try:
            began.set()
            while True:
                sum(range(100))
        except Stop:
            return "done"

    running = asyncio.ensure_future(threads.run(call, whom))
    await asyncio.sleep(0)
    began.wait()
    assert threads.interrupt(whom, Stop)
    assert await running == "done"
    threads.close()
    sys.settrace(traced)
    traced()
    sys.settrace(None)
    print("all went on")

asyncio.run(main())
"""


def test_a_thread_that_ends_as_it_is_interrupted_holds_up_no_other() -> None:
    """What was to be raised in it is dropped for good: else all threads would look for it at each call."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False, env={}
    )
    assert ended.stdout.endswith("all went on\n"), ended.stdout + ended.stderr

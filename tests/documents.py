"""Run the Python of a page: its blocks marked `python runnable`, in order, in one namespace, with top-level await."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path

_block = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """Return the runnable blocks of *page*, each with its first line number."""
    text = page.read_text()
    return [(text.count("\n", 0, found.start(1)) + 1, found[1]) for found in _block.finditer(text)]


def run_page(page: Path) -> None:
    """Run the runnable blocks of *page*; errors name the page and its line."""
    namespace: dict[str, object] = {"__name__": "__main__", "__file__": str(page)}
    with asyncio.Runner() as runner:
        for line, block in blocks_of(page):
            source = "\n" * (line - 1) + block
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            # A block without await has already run here, outside any loop: it may be a whole program.
            ran = eval(code, namespace)
            if inspect.iscoroutine(ran):
                runner.run(ran)


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))

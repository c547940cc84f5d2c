"""The pages that are written from the code say what the code says now, and every link between pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from events import codec
from projections import container, node, service, task, worker
from tools import event_reference, settings_reference

ROOT = event_reference.ROOT
PAGES = sorted(path for folder in (ROOT, ROOT / "docs") for path in folder.rglob("*.md") if _is_ours(path))

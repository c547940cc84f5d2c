"""Control groups for tests: whether this process can make them, and what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.runtime.process.control_groups import groups_of
from coordinator.runtime.process.hierarchies import LIMITED, find_hierarchies
from tests.launches import CLUSTER

if TYPE_CHECKING:
    from pathlib import Path

_FOUND = find_hierarchies()

needs_control_groups = pytest.mark.skipif(
    bool(_FOUND.lacks), reason=f"needs root or delegated control groups for {', '.join(LIMITED)}: {_FOUND.lacks}"
)


def groups_left(root: Path) -> list[str]:
    """Return the groups of the containers under *root*, and the folder of these groups, as far as they exist."""
    folders = {folder / groups_of(CLUSTER, root) for folder in _FOUND.folders.values()}
    return sorted(str(path) for folder in folders for path in (folder, *folder.glob("*/")) if path.is_dir())

"""Control groups for tests: whether this process can make them, and what is left of them."""

from __future__ import annotations

import pytest

from coordinator.runtime.process.hierarchies import LIMITED, find_hierarchies

_FOUND = find_hierarchies()

needs_control_groups = pytest.mark.skipif(
    bool(_FOUND.lacks), reason=f"needs root or delegated control groups for {', '.join(LIMITED)}: {_FOUND.lacks}"
)


def groups_left() -> set[str]:
    """Return the names of all groups of any runtime below the group of this process."""
    folders = (folder / "coordinator" for folder in _FOUND.folders.values())
    return {str(path.relative_to(folder)) for folder in folders for path in folder.glob("*/*") if path.is_dir()}

"""Images are folders of one folder, whatever their names and links say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Refused
from coordinator.runtime.oci.images import POINTS, root_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in POINTS:
        (tmp_path / "images/one:1.2" / name).mkdir(parents=True)
        (tmp_path / "outside" / name).mkdir(parents=True)
    (tmp_path / "images/one:1.2/tmp").chmod(0o1777)
    (tmp_path / "images/latest").symlink_to("one:1.2")
    (tmp_path / "images/out").symlink_to("../outside")
    (tmp_path / "images/self").symlink_to(".")
    return tmp_path / "images"


def test_an_image_is_found_by_its_name(images: Path) -> None:
    """A link to another image of the folder is one, too."""
    assert root_of("one:1.2", images) == root_of("latest", images) == images / "one:1.2"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "/etc", "one:1.2/proc", "a\0", "a\n", "x" * 129, "-x", ".x"]
)
def test_a_name_is_no_path(images: Path, name: str) -> None:
    """A name is refused before anything is looked up."""
    with pytest.raises(Refused, match="use the name of a folder"):
        root_of(name, images)


@pytest.mark.parametrize(("name", "why"), [("out", "is not in"), ("self", "is not in"), ("gone", "not on this node")])
def test_no_link_leads_out(images: Path, name: str, why: str) -> None:
    """What is not in the folder is no image."""
    with pytest.raises(Refused, match=why):
        root_of(name, images)


def test_a_file_is_no_image(images: Path) -> None:
    """Nor is what lacks the folders that others are mounted over."""
    (images / "file").write_text("")
    with pytest.raises(Refused, match="has no folder /proc"):
        root_of("file", images)
    (images / "one:1.2/tmp").chmod(0o755)
    with pytest.raises(Refused, match="chmod 1777"):
        root_of("one:1.2", images)
    (images / "one:1.2/tmp").rmdir()
    (images / "one:1.2/tmp").symlink_to("/etc")
    with pytest.raises(Refused, match="has no folder /tmp"):
        root_of("one:1.2", images)

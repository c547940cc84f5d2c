"""
Images of the oci runtime: root file systems, unpacked, a folder of its own for each in one folder of the node.

An image is only read: its name is checked, and its folder must lie in the folder of images whatever links lead there.
"""

from __future__ import annotations

import re
from pathlib import Path

from events.errors import Refused

NAME_LENGTH_MAX = 128
POINTS = ("proc", "dev", "tmp")
"""The folders of an image over which others are mounted: without them the OCI runtime would make them in the image."""
_ANYBODY = 0o1777
_NAMES = f"1 to {NAME_LENGTH_MAX} characters of A-Z a-z 0-9 _ . : @ + -"
_is_name = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:@+-]{{0,{NAME_LENGTH_MAX - 1}}}").fullmatch


def root_of(image: str, images: Path) -> Path:
    """
    Return the folder of an image among the *images* of a node.

    Raises:
        Refused: the name cannot be used, or there is no such image, or it cannot be a root.
    """
    if not _is_name(image):
        raise _refused(image[:NAME_LENGTH_MAX], f"use the name of a folder in {images}: {_NAMES}")
    try:
        folder, above = (images / image).resolve(strict=True), images.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        raise _refused(image, f"it is not on this node: unpack its root file system into {images / image}") from None
    if folder.parent != above:
        raise _refused(image, f"it leads to {folder}, which is not in {above}")
    for name in POINTS:
        if (folder / name).is_symlink() or not (folder / name).is_dir():
            raise _refused(image, f"its root file system has no folder /{name}: make it in {folder}")
    if (folder / "tmp").stat().st_mode & _ANYBODY != _ANYBODY:  # runc gives this mode to what is mounted there
        raise _refused(image, f"nobody but its owner may write to its /tmp: run chmod 1777 {folder / 'tmp'}")
    return folder


def _refused(image: str, why: str) -> Refused:
    return Refused(f"image {image!r} cannot be used: {why}", reason="bad_launch")

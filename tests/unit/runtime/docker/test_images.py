"""Names of images, as they are asked for from Docker."""

from __future__ import annotations

import pytest

from coordinator.runtime.docker.images import reference


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("busybox", "busybox", "latest"),
        ("busybox:1.36", "busybox", "1.36"),
        ("team/agent", "team/agent", "latest"),
        ("images.example:5000/team/agent", "images.example:5000/team/agent", "latest"),
        ("images.example:5000/team/agent:v1", "images.example:5000/team/agent", "v1"),
        ("team/agent@sha256:00ff", "team/agent", "sha256:00ff"),
        ("team/agent:v1@sha256:00ff", "team/agent:v1", "sha256:00ff"),
    ],
)
def test_a_name_without_a_tag_means_the_latest(image: str, name: str, tag: str) -> None:
    """Never all tags, as Docker would take it; a port is no tag."""
    assert reference(image) == (name, tag)

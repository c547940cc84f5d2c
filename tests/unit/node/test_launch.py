"""What a secret on a node may be: each other thing is refused, with the name of the secret and never its content."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.node import DesiredContainer
from coordinator.node.launch import SECRET_BYTES_MAX, launch_of
from events.container import Secret
from events.errors import Refused, Unavailable
from tests.descriptors import no_descriptor_left

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HIDDEN = b"hunter2"
NOBODY = 65_534


def read(secrets: Path) -> str:
    """Return what a container gets for the secret `s`."""
    desired = DesiredContainer(
        container_id="k",
        generation="1.0",
        desired="running",
        agent_type="t",
        command=("agent",),
        environment={"V": Secret(secret="s")},
    )
    return launch_of(desired, node_id="n", namespace="ns", epoch=(1, 1), reach={}, secrets=secrets).environment["V"]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"", ""),
        (b"hunter2\n", "hunter2"),
        (b"two\nlines\n\n", "two\nlines\n"),
        ("päss\U0001f600".encode(), "päss\U0001f600"),
        (b"x" * SECRET_BYTES_MAX, "x" * SECRET_BYTES_MAX),
    ],
)
def test_a_secret_is_the_text_of_a_file(tmp_path: Path, content: bytes, value: str) -> None:
    """Without the line end that editors add; a link to a file is one, as orchestrators mount them."""
    (tmp_path / "real").write_bytes(content)
    (tmp_path / "s").symlink_to("real")
    assert read(tmp_path) == value


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "put it into the node's secrets folder"),
        (lambda path: path.write_bytes(HIDDEN + b"\xff\xfe"), "is not UTF-8 text from byte 7 on"),
        (lambda path: path.write_bytes(HIDDEN.decode().encode("utf-16")), "is not UTF-8 text from byte 0 on"),
        (lambda path: path.write_bytes(HIDDEN + b"\0"), "contains NUL"),
        (lambda path: path.write_bytes(HIDDEN + b"x" * SECRET_BYTES_MAX), f"more than {SECRET_BYTES_MAX} bytes"),
        (lambda path: path.mkdir(), "is not a file"),
        (os.mkfifo, "is not a file"),
        (_endless, "is not a file"),
        (_socket, "cannot be read: No such device or address"),
        (lambda path: path.symlink_to("s"), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("gone"), "put it into the node's secrets folder"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    """It is the container's fault, and the node goes on."""
    make(tmp_path / "s")
    with pytest.raises(Refused, match=r"secret 's' on node n ") as refused:
        read(tmp_path)
    assert why in refused.value.message
    assert HIDDEN.decode() not in refused.value.message
    assert refused.value.reason == "no_secret"


def test_a_secret_that_may_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """As for any other error of the system; root, who reads everything, is somebody else meanwhile."""
    (tmp_path / "s").write_bytes(HIDDEN)
    (tmp_path / "s").chmod(0)
    who = os.geteuid()
    if who == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(Refused, match="secret 's' on node n cannot be read: Permission denied"):
            read(tmp_path)
    finally:
        os.seteuid(who)


def test_a_secret_that_comes_and_goes_is_read_whole_or_refused(tmp_path: Path) -> None:
    """Nothing is checked first and read then: it may be replaced, or be gone, in between."""
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            (tmp_path / "new").write_bytes(HIDDEN)
            (tmp_path / "new").rename(tmp_path / "s")
            (tmp_path / "s").unlink()
            (tmp_path / "s").mkdir()
            (tmp_path / "s").rmdir()

    thread = threading.Thread(target=replace)
    thread.start()
    found: set[str] = set()
    try:
        until = time.monotonic() + 20
        while len(found) < 2 and time.monotonic() < until:
            try:
                found.add(read(tmp_path))
            except Refused as error:
                found.add(error.reason)
    finally:
        over.set()
        thread.join()
    assert found == {HIDDEN.decode(), "no_secret"}


def test_a_secret_that_cannot_be_read_now_is_not_missing(tmp_path: Path) -> None:
    """A node agent without a descriptor says that, and not that the secret must be put there."""
    (tmp_path / "s").write_text("value\n")
    with no_descriptor_left(), pytest.raises(Unavailable, match="Too many open files"):
        read(tmp_path)
    assert read(tmp_path) == "value"

"""What is run for a container, and what is written and read in its directory; real runs are in the contract suite."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from coordinator.errors import Refused
from coordinator.runtime.oci.bundle import Network
from coordinator.runtime.oci.bundles import Bundles, sandbox_id
from coordinator.runtime.oci.images import POINTS
from coordinator.runtime.process.control_group import GroupPlace
from coordinator.runtime.protocol import Launch
from tests.launches import launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run containers")
GROUPS = Path("coordinator/cluster-1.12345678")
NAME = "coordination-a-7.0"
RUNC = "runc version 1 --keep"


def program(tmp_path: Path, says: str) -> Path:
    """Write a program that only says what it is."""
    file = tmp_path / "program"
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


def bundles(tmp_path: Path, says: str = RUNC, *, init: str = "sh", network: Network = "none") -> Bundles:
    for name in POINTS:
        (tmp_path / "images/one" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "images/one/tmp").chmod(0o1777)
    given = str(program(tmp_path, says))
    made = Bundles(images=tmp_path / "images", program=given, init=init, network=network, user=7, groups=GROUPS)
    made.open()
    return made


def launched(**fields: object) -> Launch:
    return msgspec.structs.replace(launch("a", "true", environment={"TOKEN": "hush"}), **{"image": "one", **fields})


def place(tmp_path: Path, quota: str) -> GroupPlace:
    (tmp_path / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    return GroupPlace(version=1, folders={"cpu": str(tmp_path), "memory": str(tmp_path)})


def test_runc_keeps_the_group_until_it_is_read(tmp_path: Path) -> None:
    """Its state is in the container's directory; the environment of the container is not in that of runc."""
    made = bundles(tmp_path).invocation(launched())
    run = ("run", "--keep", "--bundle", ".", "--pid-file", "init", NAME)
    assert made.command == (str(tmp_path / "program"), "--root", "state", *run)
    assert (made.folder, made.enters) == (".", False)
    assert "hush" not in str(made)


@pytest.mark.parametrize("network", ["none", "host"])
def test_runsc_is_told_the_network(tmp_path: Path, network: Network) -> None:
    """Its id of a container is short and of this runtime alone; it is asked to hand SIGTERM on."""
    made = bundles(tmp_path, "runsc version 2", network=network)
    sandbox = sandbox_id(GROUPS, NAME)
    command = made.invocation(launched()).command
    assert command[3:] == (f"--network={network}", "run", "--bundle", ".", "--pid-file", "init", sandbox)
    assert made.asks_to_end(Path("/x", NAME))[1:] == ("--root", "state", "kill", sandbox, "TERM")
    assert len(sandbox) == 32
    assert sandbox_id(Path("coordinator/cluster-1.87654321"), NAME) != sandbox


def test_a_configuration_is_written_and_deleted(tmp_path: Path) -> None:
    """Only its owner may read it, and once the command runs it is not needed any more."""
    made = bundles(tmp_path, init="none")
    made.furnish(tmp_path, launched(), place(tmp_path, "10000"))
    file = tmp_path / "config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    read = msgspec.json.decode(file.read_bytes())
    assert {"TOKEN=hush", f"RUNTIME_CONTAINER_NAME={NAME}"} <= set(read["process"]["env"])
    assert read["linux"]["cgroupsPath"] == str(GROUPS / NAME)
    assert read["linux"]["resources"].keys() == {"devices", "pids", "memory", "cpu"}
    assert "swap" not in read["linux"]["resources"]["memory"]
    assert (made.has_begun(tmp_path), made.never_ran(tmp_path)) == (False, True)
    (tmp_path / "init").write_text("4194399")
    assert (made.has_begun(tmp_path), made.never_ran(tmp_path)) == (True, False)
    assert not file.exists()
    assert made.asks_to_end(tmp_path) == ()


def test_a_limit_that_could_not_be_set_is_left_out(tmp_path: Path) -> None:
    """One above that of the node agent's own group; without a group nothing is run."""
    made = bundles(tmp_path)
    made.furnish(tmp_path, launched(), place(tmp_path, "-1"))
    assert "cpu" not in msgspec.json.decode((tmp_path / "config.json").read_bytes())["linux"]["resources"]
    with pytest.raises(FileNotFoundError, match="no control group"):
        made.furnish(tmp_path, launched(), None)


def test_a_container_has_begun_when_its_init_has_a_child(tmp_path: Path) -> None:
    """Until then a signal would not reach the command."""
    made = bundles(tmp_path)
    (tmp_path / "init").write_text("mad")
    assert not made.has_begun(tmp_path)
    (tmp_path / "init").write_text(str(os.getpid()))
    assert made.has_begun(tmp_path) == bool(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text())


def test_what_cannot_be_run_is_named(tmp_path: Path) -> None:
    """The program and the init at the opening; an image at the start."""
    with pytest.raises(Refused, match="is none of runc, crun, runsc"):
        bundles(tmp_path, "tar version 1")
    with pytest.raises(Refused, match=r"node\.oci\.init: nowhere not found"):
        bundles(tmp_path, init="nowhere")
    made = bundles(tmp_path)
    with pytest.raises(Refused, match="has no image"):
        made.invocation(launched(image=""))
    with pytest.raises(Refused, match="'two' cannot be used"):
        made.invocation(launched(image="two"))
    lost = Bundles(images=tmp_path, program="nowhere", init="", network="none", user=7, groups=GROUPS)
    with pytest.raises(Refused, match="'nowhere' not found"):
        lost.open()

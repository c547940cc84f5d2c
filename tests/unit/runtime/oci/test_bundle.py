"""The configuration of a container: what it may see and do, and its limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordinator.runtime.oci.bundle import INIT, PIDS_MAX, Cell, configuration
from tests.launches import launch

NOBODY = Cell(init="/usr/bin/tini-static", network="none", user=65_534)


def made(cell: Cell = NOBODY, **fields: Any) -> dict[str, Any]:
    launched = msgspec.structs.replace(launch("a", "sh", "-c", "true"), **fields)
    return configuration(launched, cell, root="/images/one", group="groups/a", environment={"A": "b", "PATH": "/mine"})


def test_it_has_no_rights() -> None:
    """No capability in any set, no way to gain one, and an ordinary user; its root cannot be written."""
    process = made()["process"]
    assert set(process["capabilities"]) == {"bounding", "effective", "inheritable", "permitted", "ambient"}
    assert not any(process["capabilities"].values())
    assert process["noNewPrivileges"] is True
    assert process["user"] == {"uid": 65_534, "gid": 65_534}
    assert made()["root"] == {"path": "/images/one", "readonly": True}


def test_its_variables_are_those_of_the_launch() -> None:
    """Over those that every program needs; none of the node agent's."""
    assert made()["process"]["env"] == ["PATH=/mine", "HOME=/", "LANG=C.UTF-8", "A=b"]


def test_an_init_runs_the_command() -> None:
    """It is mounted from the node, read-only; without one the command is process 1."""
    with_init, without = made(), made(msgspec.structs.replace(NOBODY, init=""))
    assert with_init["process"]["args"] == [INIT, "--", "sh", "-c", "true"]
    assert [one["source"] for one in with_init["mounts"] if one["destination"] == INIT] == ["/usr/bin/tini-static"]
    assert without["process"]["args"] == ["sh", "-c", "true"]
    assert INIT not in {one["destination"] for one in without["mounts"]}


def test_nothing_of_the_node_is_mounted_but_the_init() -> None:
    """Every other mount is a file system of the container's own; none lets set-user-id programs or devices in."""
    for mount in made()["mounts"]:
        assert mount["type"] == ("bind" if mount["destination"] == INIT else mount["type"])
        assert "nosuid" in mount["options"]
        assert "ro" in mount["options"] or mount["type"] != "bind"


@pytest.mark.parametrize(("network", "own"), [("none", True), ("host", False)])
def test_its_namespaces_are_its_own(network: Any, own: bool) -> None:
    """All of them; that of the network unless the node's was asked for."""
    kinds = {one["type"] for one in made(msgspec.structs.replace(NOBODY, network=network))["linux"]["namespaces"]}
    assert kinds - {"network"} == {"pid", "ipc", "uts", "mount"}
    assert ("network" in kinds) is own


def test_its_limits_are_those_of_the_launch() -> None:
    """Memory without swap, CPU as a share of time, and always a number of processes; 0 is no limit."""
    limits = made(memory_bytes=1024, cpu_millis=250)["linux"]["resources"]
    assert limits["memory"] == {"limit": 1024, "swap": 1024}
    assert limits["cpu"] == {"period": 100_000, "quota": 25_000}
    assert made(memory_bytes=0, cpu_millis=1)["linux"]["resources"]["cpu"]["quota"] == 1_000
    none = made(memory_bytes=0, cpu_millis=0)["linux"]["resources"]
    assert none.keys() == {"devices", "pids"}
    assert none["pids"] == {"limit": PIDS_MAX}
    assert made(msgspec.structs.replace(NOBODY, swap=False))["linux"]["resources"]["memory"].keys() == {"limit"}


def test_dangerous_calls_are_denied() -> None:
    """By name, and new namespaces by the flag of the call that makes them."""
    filters = made()["linux"]["seccomp"]["syscalls"]
    names = {name for one in filters for name in one["names"]}
    assert {"mount", "ptrace", "bpf", "keyctl", "kexec_load", "unshare", "setns"} <= names
    users = [one for one in filters if one["names"] == ["clone"] and one["args"][0]["value"] == 0x10000000]
    assert [one["action"] for one in users] == ["SCMP_ACT_ERRNO"]
    assert next(one for one in filters if one["names"] == ["clone3"])["errnoRet"] == 38
    assert all(one["action"] == "SCMP_ACT_ERRNO" for one in filters)

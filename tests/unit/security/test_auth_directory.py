"""The directory of users: made once, added to, never overwritten; and what is found wrong with it."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from coordinator.cli import run_line
from coordinator.processes.credentials import credentials
from coordinator.security.auth_directory import OWN, AuthDirectory
from coordinator.security.permissions import user_of
from coordinator.settings.model import Settings
from coordinator.settings.sections import FollowerSettings, NatsSettings
from events.credentials import read_login
from events.errors import NotFound, Refused
from tests.real_server import find_binary
from tests.secured import USERS, directory_of

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_directory_holds_what_a_cluster_needs(tmp_path: Path) -> None:
    """Users of its own and those named; the server takes the configuration; nobody else may read a file."""
    directory = directory_of(tmp_path / "auth", tls=True)
    assert {one.user.token for one in directory.known()} == {*OWN, *(user_of(*user).token for user in USERS)}
    command = [find_binary(), "-t", "-c", str(directory.path / "nats.conf")]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.path.rglob("*") if file.is_file()} == {0o600}
    assert directory.check() == []


def test_nothing_is_made_again(tmp_path: Path) -> None:
    """Not by the same, not by further users, not by other options; a key taken elsewhere is not replaced."""
    directory = directory_of(tmp_path, tls=True)
    taken = directory.credentials(user_of("worker", "w1"))
    taken.unlink()
    before = contents(tmp_path)
    directory.prepare("coordination", listen="0.0.0.0:1", store=tmp_path / "other")
    assert not directory.add(user_of("worker", "w1"))
    assert not directory.make_certificates(("elsewhere",), NOW)
    assert contents(tmp_path) == before
    assert directory.add(user_of("worker", "w2"))
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {
        "accounts.conf", "users.json", "creds/worker-w2.nk",
    }  # fmt: skip


def test_a_directory_of_another_namespace_is_left_alone(tmp_path: Path) -> None:
    """Its users may not be used for another cluster by mistake."""
    directory = directory_of(tmp_path)
    with pytest.raises(Refused, match="belongs to namespace 'coordination', not 'other'"):
        directory.prepare("other", listen="127.0.0.1:-1", store=tmp_path)


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """Files that others may read, another's key, a damaged one, a configuration that was edited."""
    directory = directory_of(tmp_path, tls=True)
    directory.credentials(user_of("admin")).chmod(0o644)
    (tmp_path / "tls/ca.key").chmod(0o640)
    other = directory.credentials(user_of("monitor")).read_text()
    directory.credentials(user_of("follower")).write_text(other)
    directory.credentials(user_of("archive")).write_text("gone")
    (tmp_path / "accounts.conf").write_text("# mine")
    found = " | ".join(f"{one.what}: {one.remedy}" for one in directory.check())
    for said in (
        "admin.nk (mode 644)", "ca.key (mode 640)", "chmod 600", "holds another key than the server configuration",
        "archive.nk holds no credentials", "accounts.conf does not match",
    ):  # fmt: skip
        assert said in found


def test_a_directory_that_is_none_says_so(tmp_path: Path) -> None:
    """The error says how to create one; a damaged list of users is not treated as empty."""
    with pytest.raises(NotFound, match=r"run 'coordinator auth init .*' to create them"):
        AuthDirectory(tmp_path).known()
    (tmp_path / "users.json").write_text("{")
    for call in (AuthDirectory(tmp_path).known, AuthDirectory(tmp_path).check):
        with pytest.raises(Refused, match=r"users\.json is damaged"):
            call()
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be created"):
        AuthDirectory(tmp_path / "file/auth").prepare("coordination", listen="x", store=tmp_path)


def test_a_certificate_is_for_the_hosts_named(tmp_path: Path) -> None:
    """And for this machine; TLS libraries take the authority."""
    directory = directory_of(tmp_path)
    assert directory.authority_or_none() is None
    assert directory.make_certificates(("nats.example", "10.1.2.3"), NOW)
    server = x509.load_pem_x509_certificate((tmp_path / "tls/server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["nats.example", "localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1", "::1"]
    assert ssl.create_default_context(cafile=str(directory.authority)).get_ca_certs()


def test_each_process_finds_the_credentials_of_its_role(tmp_path: Path) -> None:
    """From `nats.auth`; a file named explicitly has precedence; an ambiguous one is refused."""
    directory = directory_of(tmp_path, tls=True)
    settings = Settings(nats=NatsSettings(auth=tmp_path), follower=FollowerSettings(creds=tmp_path / "mine.nk"))
    assert credentials(settings, "coordinator") == {
        "creds": str(tmp_path / "creds/coordinator.nk"), "tls_ca": str(tmp_path / "tls/ca.pem"),
    }  # fmt: skip
    assert credentials(settings)["creds"] == str(tmp_path / "creds/admin.nk")
    assert credentials(settings, "follower")["creds"] == str(tmp_path / "mine.nk")
    assert credentials(settings, "node")["creds"] == str(tmp_path / "creds/node-n1.nk")
    directory.add(user_of("node", "n2"))
    assert credentials(settings, "node", "n2")["creds"] == str(tmp_path / "creds/node-n2.nk")
    for name in ("", "n3"):
        with pytest.raises(Refused, match=r"credentials files for node.*: set nats\.creds, or create one with"):
            credentials(settings, "node", name)
    named = Settings(nats=NatsSettings(auth=tmp_path, creds=tmp_path / "one.nk"))
    assert credentials(named, "node")["creds"] == str(tmp_path / "one.nk")
    assert credentials(Settings()) == {"creds": None, "tls_ca": None}


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The `auth` commands create, add, list and check users; a check that finds problems exits with 5."""
    folder = str(tmp_path / "auth")
    made = ["auth", "init", folder, "--domain", "execution", "--node", "n1", "--tls", "--host", "nats.example"]
    assert run_line(made) == run_line(made) == 0
    assert f"nats-server -c {folder}/nats.conf" in capsys.readouterr().out
    assert run_line(["auth", "add", "worker", "w1", "--dir", folder]) == 0
    file = capsys.readouterr().out.strip()
    assert read_login(file).user == "worker-w1"
    assert run_line(["auth", "list", "--dir", folder, "--json"]) == 0
    assert '"agents-n1"' in capsys.readouterr().out
    assert run_line(["auth", "check", "--dir", folder]) == 0
    (tmp_path / "auth/creds/admin.nk").chmod(0o644)
    (tmp_path / "auth/nats.conf").write_text("nonsense {")
    assert run_line(["auth", "check", "--dir", folder]) == 5
    said = capsys.readouterr()
    assert "others may read" in said.out
    assert "nats-server rejects" in said.out
    assert run_line(["auth", "list"]) == 5
    assert run_line(["auth", "add", "boss", "x", "--dir", folder]) == 5

"""
The directory that `coordinator auth` manages: keys of users, the server configuration, and certificates.

    nats.conf      server, written once, yours to edit       users.json     all users with their public keys
    accounts.conf  rewritten whenever a user is added        creds/         one credentials file per user, 0600
    tls.conf       written with the certificates             tls/           ca.pem ca.key server.pem server.key

An existing key is never replaced, and a credentials file that was moved elsewhere, as it should be, is not created
again: another key would lock its user out.
"""

from __future__ import annotations

import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.atomic_files import private_folder, write_whole
from coordinator.security.permissions import NAMED, user_of
from coordinator.security.server_config import Known, accounts_conf, server_conf, tls_conf
from events.codec import UNREADABLE
from events.credentials import SEED_BYTES, public_nkey, read_login, written_login
from events.errors import NotFound, Refused, shown
from events.subjects import Subjects

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from pathlib import Path

    from coordinator.security.permissions import User

OWN = ("coordinator", "follower", "archive", "admin", "monitor")
"""Users that every cluster has."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_OPEN_TO_OTHERS = 0o077


class _Users(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    users: list[Known] = []


class Trouble(NamedTuple):
    """A problem that `check` found, and what to do about it."""

    what: str
    remedy: str


class AuthDirectory:
    """The files of `coordinator auth` in *path*; `prepare` creates them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def authority(self) -> Path:
        """The certificate that clients must trust; it does not exist without TLS."""
        return self.path / "tls/ca.pem"

    def credentials(self, user: User) -> Path:
        """Return the path of a user's credentials file; the file may have been moved elsewhere."""
        return self.path / "creds" / f"{user.token}.nk"

    def authority_or_none(self) -> Path | None:
        """Return the certificate to trust, or None without TLS."""
        return self.authority if self.authority.exists() else None

    def find(self, role: str, name: str = "") -> Path:
        """
        Return the credentials file of the user of *role* named *name*; without a name, that of the role's only user.

        Raises:
            Refused: there is no such file, or there are several.
        """
        if name or role not in NAMED:
            found = [self.credentials(user_of(role, name))]
        else:
            found = sorted((self.path / "creds").glob(f"{role}-*.nk"))
        found = [file for file in found if file.exists()]
        if len(found) != 1:
            who = f"{role} {name}".rstrip()
            msg = f"{self.path}/creds has {len(found)} credentials files for {who}: set nats.creds, or create one"
            raise Refused(f"{msg} with 'coordinator auth add {role} NAME'", reason="no_credentials")
        return found[0]

    @property
    def namespace(self) -> str:
        """The namespace it was created for."""
        return self._users().namespace

    def known(self) -> list[Known]:
        """
        Return all users.

        Raises:
            NotFound: this directory has no users. Refused: its files cannot be read.
        """
        return self._users().users

    def prepare(self, namespace: str, *, listen: str, store: Path) -> None:
        """
        Create the directory with the users that every cluster has; existing files stay.

        Raises:
            Refused: it belongs to another namespace, or cannot be created.
        """
        try:
            for folder in (self.path, self.path / "creds"):
                private_folder(folder)
        except OSError as error:
            msg = f"{error.filename} cannot be created: {error.strerror}; use another directory"
            raise Refused(msg, reason="bad_directory") from None
        with suppress(NotFound):
            if self.namespace != namespace:
                msg = f"{self.path} belongs to namespace {self.namespace!r}, not {namespace!r}: use another directory"
                raise Refused(msg, reason="bad_directory")
        self._write_users(_Users(namespace=namespace, users=self._known_or_none()))
        for role in OWN:
            self.add(user_of(role))
        self._write_new("nats.conf", server_conf(namespace, listen, str(store)).encode())
        self._write_new("tls.conf", tls_conf().encode())

    def add(self, user: User) -> bool:
        """
        Create the key of *user* and add it to the server configuration; return False if the user existed.

        Raises:
            NotFound: the directory was not prepared.
        """
        users = self._users()
        is_new = user not in [one.user for one in users.users]
        if is_new:
            seed = secrets.token_bytes(SEED_BYTES)
            # Write the secret first: with only a public key nobody could log in as this user.
            self._write(self.credentials(user), written_login(user.token, seed).encode())
            made = Known(role=user.role, name=user.name, public=public_nkey(seed))
            users = _Users(namespace=users.namespace, users=[*users.users, made])
            self._write_users(users)
        self._write(self.path / "accounts.conf", self._accounts(users).encode())
        return is_new

    def make_certificates(self, hosts: Sequence[str], now: dt.datetime) -> bool:
        """Create an authority and a server certificate for *hosts*; return False if the certificate existed."""
        from coordinator.security.certificates import make_authority, make_server

        folder = self.path / "tls"
        folder.mkdir(mode=0o700, exist_ok=True)
        authority_key, server, server_key = folder / "ca.key", folder / "server.pem", folder / "server.key"
        if not self.authority.exists():
            key, certificate = make_authority(self.namespace, now)
            self._write(authority_key, key)
            self._write(self.authority, certificate)
        is_new = not server.exists()
        if is_new:
            named = tuple(dict.fromkeys((*hosts, *LOCAL_HOSTS)))
            key, certificate = make_server(named, authority_key.read_bytes(), self.authority.read_bytes(), now)
            self._write(server_key, key)
            self._write(server, certificate)
        self._write(self.path / "tls.conf", tls_conf(str(server.absolute()), str(server_key.absolute())).encode())
        return is_new

    def check(self) -> list[Trouble]:
        """Return problems: files that others may read, keys the server does not know, an outdated configuration."""
        users = self._users()
        found = []
        for one in users.users:
            file = self.credentials(one.user)
            if file.exists():
                found += _check_credentials(file, one)
        for file in sorted((self.path / "tls").glob("*.key")):
            found += _check_mode(file)
        configuration = self.path / "accounts.conf"
        if not configuration.exists() or configuration.read_text() != self._accounts(users):
            remedy = f"run 'coordinator auth init {self.path}', which rewrites it"
            found.append(Trouble(f"{configuration} does not match {self._file}", remedy))
        return found

    @property
    def _file(self) -> Path:
        return self.path / "users.json"

    def _users(self) -> _Users:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Users)
        except FileNotFoundError:
            msg = f"{self.path} has no users: run 'coordinator auth init {self.path}' to create them"
            raise NotFound(msg) from None
        except OSError as error:
            raise Refused(f"{self._file} cannot be read: {error.strerror}", reason="bad_directory") from None
        except UNREADABLE as error:
            raise Refused(f"{self._file} is damaged: {shown(str(error))}", reason="bad_directory") from None

    def _known_or_none(self) -> list[Known]:
        return self.known() if self._file.exists() else []

    def _accounts(self, users: _Users) -> str:
        return accounts_conf(users.users, Subjects(users.namespace))

    def _write_users(self, users: _Users) -> None:
        self._write(self._file, msgspec.json.format(msgspec.json.encode(users), indent=2) + b"\n")

    def _write_new(self, name: str, content: bytes) -> None:
        if not (self.path / name).exists():
            self._write(self.path / name, content)

    def _write(self, file: Path, content: bytes) -> None:
        """Replace a file atomically; raises `Refused` when it cannot be written."""
        try:
            write_whole(file, content)
        except OSError as error:
            msg = f"{file} cannot be written: {error.strerror}; use a directory that you may write to"
            raise Refused(msg, reason="bad_directory") from error


def _check_credentials(file: Path, known: Known) -> list[Trouble]:
    try:
        login = read_login(file)
    except Refused as error:
        return [Trouble(error.message, "restore it from a backup, or remove the user from users.json and add it again")]
    found = _check_mode(file)
    if login.public_nkey != known.public or login.user != known.user.token:
        what = f"{file} holds another key than the server configuration has for {known.user.token}"
        found.append(Trouble(what, "restore the right file, or remove the user from users.json and add it again"))
    return found


def _check_mode(file: Path) -> list[Trouble]:
    mode = stat.S_IMODE(file.stat().st_mode)
    return [Trouble(f"others may read {file} (mode {mode:o})", f"chmod 600 {file}")] if mode & _OPEN_TO_OTHERS else []

"""
The directory that `coordinator auth` keeps: the keys of users, what the server is told of them, and certificates.

    nats.conf      of the server, made once, yours           users.json     who there is, with public keys
    accounts.conf  made anew with each user                  creds/         one file of credentials per user, 0600
    tls.conf       made with the certificates                tls/           ca.pem ca.key server.pem server.key

A key that exists is never replaced, and a file of credentials that was taken elsewhere, as it should be, is not made
again: another key would lock its user out.
"""

from __future__ import annotations

import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.atomic_files import write_whole
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
    """Something that `check` found wrong, and what to do about it."""

    what: str
    remedy: str


class AuthDirectory:
    """What `coordinator auth` keeps in *path*; nothing is made before `prepare`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def authority(self) -> Path:
        """The certificate that clients are to trust; there is none without TLS."""
        return self.path / "tls/ca.pem"

    def credentials(self, user: User) -> Path:
        """Give the file of a user's credentials; it may be kept elsewhere."""
        return self.path / "creds" / f"{user.token}.nk"

    def authority_or_none(self) -> Path | None:
        """Give the certificate to trust where there is one."""
        return self.authority if self.authority.exists() else None

    def find(self, role: str, name: str = "") -> Path:
        """
        Give the credentials of the user of *role* named *name*; without a name, of the only one of that role here.

        Raises:
            Refused: they are not here, or there are several.
        """
        if name or role not in NAMED:
            found = [self.credentials(user_of(role, name))]
        else:
            found = sorted((self.path / "creds").glob(f"{role}-*.nk"))
        found = [file for file in found if file.exists()]
        if len(found) != 1:
            msg = f"{self.path}/creds has {len(found)} files for {role} {name}: name one by nats.creds, or make it"
            raise Refused(f"{msg} with 'coordinator auth add {role} NAME'", reason="no_credentials")
        return found[0]

    @property
    def namespace(self) -> str:
        """The namespace that it was made for."""
        return self._users().namespace

    def known(self) -> list[Known]:
        """
        Give all users.

        Raises:
            NotFound: this directory holds none. Refused: what it holds cannot be read.
        """
        return self._users().users

    def prepare(self, namespace: str, *, listen: str, store: Path) -> None:
        """
        Make the directory with the users that every cluster has; what is there stays.

        Raises:
            Refused: it is of another namespace, or cannot be made.
        """
        try:
            for folder in (self.path, self.path / "creds"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{error.filename} cannot be made: {error.strerror}; name another directory"
            raise Refused(msg, reason="bad_directory") from None
        with suppress(NotFound):
            if self.namespace != namespace:
                msg = f"{self.path} is of namespace {self.namespace!r}, and {namespace!r} is wanted: use another one"
                raise Refused(msg, reason="bad_directory")
        self._write_users(_Users(namespace=namespace, users=self._known_or_none()))
        for role in OWN:
            self.add(user_of(role))
        self._write_new("nats.conf", server_conf(namespace, listen, str(store)).encode())
        self._write_new("tls.conf", tls_conf().encode())

    def add(self, user: User) -> bool:
        """
        Make *user*'s key, and tell the server's configuration of it; says whether there was none before.

        Raises:
            NotFound: the directory was not prepared.
        """
        users = self._users()
        is_new = user not in [one.user for one in users.users]
        if is_new:
            seed = secrets.token_bytes(SEED_BYTES)
            # The secret first: a public key alone would be of a user that nobody can be.
            self._write(self.credentials(user), written_login(user.token, seed).encode())
            made = Known(role=user.role, name=user.name, public=public_nkey(seed))
            users = _Users(namespace=users.namespace, users=[*users.users, made])
            self._write_users(users)
        self._write(self.path / "accounts.conf", self._accounts(users).encode())
        return is_new

    def make_certificates(self, hosts: Sequence[str], now: dt.datetime) -> bool:
        """Make an authority and a certificate for a server reached by *hosts*; says whether there was none before."""
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
        """Look for what is wrong: files that others may read, keys that are not the server's, a stale configuration."""
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
            remedy = f"'coordinator auth init {self.path}' makes it anew"
            found.append(Trouble(f"{configuration} is not what follows from {self._file}", remedy))
        return found

    @property
    def _file(self) -> Path:
        return self.path / "users.json"

    def _users(self) -> _Users:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Users)
        except FileNotFoundError:
            msg = f"{self.path} holds no users: 'coordinator auth init {self.path}' makes them"
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
        """Replace a file whole, or say that this is no place to write to."""
        try:
            write_whole(file, content)
        except OSError as error:
            msg = f"{file} cannot be written: {error.strerror}; name a directory of your own"
            raise Refused(msg, reason="bad_directory") from error


def _check_credentials(file: Path, known: Known) -> list[Trouble]:
    try:
        login = read_login(file)
    except Refused as error:
        return [Trouble(error.message, "take it from a backup, or remove the user from users.json and add it again")]
    found = _check_mode(file)
    if login.public_nkey != known.public or login.user != known.user.token:
        what = f"{file} holds another key than the server knows {known.user.token} by"
        found.append(Trouble(what, "put the right file there, or remove the user from users.json and add it again"))
    return found


def _check_mode(file: Path) -> list[Trouble]:
    mode = stat.S_IMODE(file.stat().st_mode)
    return [Trouble(f"others may read {file} (mode {mode:o})", f"chmod 600 {file}")] if mode & _OPEN_TO_OTHERS else []

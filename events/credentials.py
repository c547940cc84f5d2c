"""
NATS credentials from a file: the name of the user, and the signature that proves it.

Two kinds are read: an nkey seed with a line `# user NAME` above it, as `coordinator auth init` writes it, and the
`.creds` file of an operator, a JWT and a seed. The seed must never be shown: not in an error, a log or a `repr`.
`cryptography` is imported only to sign or to derive a key, so that importing this module is cheap.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode, b64encode
from binascii import crc_hqx
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Callable

SEED_BYTES = 32
FILE_BYTES_MOST = 64 * 1024
INBOXES = "_INBOX"
"""First token of reply subjects; for users with credentials of ours the user name is the second."""

_SEED, _USER = 18 << 3, 20 << 3
_CRC_BYTES = 2

_jwt = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+").search
_seed = re.compile(r"^\s*(SU[A-Z2-7]{56})\s*$", re.MULTILINE).search
_user = re.compile(r"^#\s*user\s+(\S+)\s*$", re.MULTILINE).search


class Login:
    """Credentials read from a file; `user` is empty if the file does not name the user."""

    def __init__(self, *, seed: bytes, user: str = "", jwt: str = "") -> None:
        self.user = user
        self.jwt = jwt
        self._seed = seed

    @property
    def inbox_prefix(self) -> str:
        """The prefix of reply subjects of this user only."""
        return f"{INBOXES}.{self.user}" if self.user else INBOXES

    @property
    def public_nkey(self) -> str:
        """The public key, by which the server identifies the user."""
        return public_nkey(self._seed)

    def signature(self, nonce: str) -> bytes:
        """Return the signature of the server's nonce, in base64."""
        return b64encode(_private_key(self._seed).sign(nonce.encode()))

    def apply(self, client: Any) -> dict[str, Callable[..., bytes]]:
        """Make a nats-py *client* log in with these credentials; return further options for its `connect`."""
        # With its own options nats-py would import another library for this; it reads these attributes at login.
        client._auth_configured = True  # noqa: SLF001
        if self.jwt:
            return {"signature_cb": self.signature, "user_jwt_cb": self.jwt.encode}
        client._public_nkey = self.public_nkey  # noqa: SLF001
        return {"signature_cb": self.signature}


def read_login(file: str | Path) -> Login:
    """
    Read the credentials in *file*.

    Raises:
        Refused: the file cannot be read, or holds no credentials.
    """
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(FILE_BYTES_MOST).decode("ascii", "replace")
    except (OSError, ValueError) as error:  # a name that no file can have, such as one with NUL
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"the credentials {str(file)!r} cannot be read: {why}; use a file written by 'coordinator auth'"
        raise Refused(msg, reason="bad_credentials") from None
    seed, jwt, user = _seed(text), _jwt(text), _user(text)
    if seed is None:
        msg = f"{file} holds no credentials: use a file with an nkey seed (SU…) on a line, or a NATS .creds file"
        raise Refused(msg, reason="bad_credentials")
    name = checked(user[1], f"the user in {file}") if user is not None else ""
    return Login(seed=_raw_seed(seed[1], file), user=name, jwt=jwt[1] if jwt is not None else "")


def written_login(user: str, seed: bytes) -> str:
    """Return the text of a credentials file, as `read_login` and the NATS tools read it."""
    return f"# NATS credentials: a secret, for this user's programs alone\n# user {user}\n{_encoded_seed(seed)}\n"


def public_nkey(seed: bytes) -> str:
    """Return the public nkey (`U…`) of a user's seed of 32 bytes."""
    raw = _private_key(seed).public_key().public_bytes_raw()
    return _encoded(bytes([_USER]) + raw)


def _private_key(seed: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _encoded_seed(seed: bytes) -> str:
    return _encoded(bytes([_SEED | _USER >> 5, (_USER & 31) << 3]) + seed)


def _encoded(raw: bytes) -> str:
    return b32encode(raw + crc_hqx(raw, 0).to_bytes(_CRC_BYTES, "little")).decode().rstrip("=")


def _raw_seed(encoded: str, file: str | Path) -> bytes:
    raw = b32decode(encoded + "=" * (-len(encoded) % 8))
    if crc_hqx(raw[:-_CRC_BYTES], 0) != int.from_bytes(raw[-_CRC_BYTES:], "little"):
        msg = f"the nkey seed in {file} is damaged (its checksum is wrong): copy the file again"
        raise Refused(msg, reason="bad_credentials")
    return raw[2:-_CRC_BYTES]

"""Files of credentials: what is read, what is refused, and that the secret is never shown."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from events.credentials import FILE_BYTES_MOST, Login, public_nkey, read_login, written_login
from events.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

# From the tests of nkeys, the library of NATS itself.
SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
PUBLIC = "UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L"


def test_a_seed_of_nats_is_read_and_its_public_half_is_theirs(tmp_path: Path) -> None:
    """The encoding of seed and key is that of NATS; a seed without a user name has the common inbox prefix."""
    file = tmp_path / "a.nk"
    file.write_text(f"{SEED}\n")
    login = read_login(file)
    assert (login.public_nkey, login.user, login.inbox_prefix, login.jwt) == (PUBLIC, "", "_INBOX", "")


@given(st.binary(min_size=32, max_size=32), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_what_is_written_is_read(seed: bytes, user: str) -> None:
    """Name and key are read, and the public key verifies a signature."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "u.nk"
        file.write_text(written_login(user, seed))
        login = read_login(file)
    assert (login.user, login.inbox_prefix, login.public_nkey) == (user, f"_INBOX.{user}", public_nkey(seed))
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    public.verify(b64decode(login.signature("nonce")), b"nonce")


def test_a_creds_file_of_an_operator_is_read(tmp_path: Path) -> None:
    """JWT and seed are read between their markers; nats-py gets both."""
    file = tmp_path / "a.creds"
    file.write_text(
        "-----BEGIN NATS USER JWT-----\nabc.def.ghi\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    )
    login = read_login(file)
    options = login.apply(Client())
    assert (login.jwt, login.public_nkey) == ("abc.def.ghi", PUBLIC)
    assert options["user_jwt_cb"]() == b"abc.def.ghi"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no credentials"),
        (b"\xff\x00 rubbish", "holds no credentials"),
        (SEED[:-1].encode(), "holds no credentials"),
        (SEED.replace("VZ7", "VZ6").encode(), "is damaged"),
        (b"SO" + SEED[2:].encode(), "holds no credentials"),
        (b" " * FILE_BYTES_MOST + SEED.encode(), "holds no credentials"),
        (f"# user a.b\n{SEED}".encode(), "is not an identifier"),
    ],
)
def test_what_holds_none_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    """The message says what is needed and contains no part of the secret."""
    file = tmp_path / "a.nk"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused, match=said) as refused:
        read_login(file)
    assert SEED[4:20] not in refused.value.message


def test_the_secret_is_not_shown() -> None:
    """A login that is logged or printed shows no secret."""
    login = Login(seed=b"s" * 32, user="me")
    assert "ssss" not in repr(login)
    assert "ssss" not in str(login)

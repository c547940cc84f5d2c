"""URLs of NATS servers: what is taken, what is refused and how that is told, and IPv6 in brackets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from events.errors import Refused
from events.nats_address import address_of, login_of, servers_of, url_of, where_is


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("nats://[::1]:4222", "nats://[::1]:4222"),
        ("nats://token@[::1]:4223", "nats://[::1]:4223"),
        ("nats://[2001:DB8::1]", "nats://[2001:db8::1]:4222"),
        ("nats://[fe80::1%25eth0]:4222", "nats://[fe80::1%eth0]:4222"),
        ("nats://[fe80::1%eth0]:4222", "nats://[fe80::1%eth0]:4222"),
        ("tls://host", "tls://host:4222"),
        ("nats://host:1/", "nats://host:1"),
        (" nats://host ", "nats://host:4222"),
    ],
)
def test_a_url_without_login(url: str, plain: str) -> None:
    """It has a port, and an IPv6 address is in brackets; read again, it is the same."""
    (server,) = servers_of(url)
    assert url_of(server) == plain
    assert url_of(urlsplit(plain)) == plain
    assert plain.endswith(where_is(server))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://::1:4222", "nats://::1:4222"),
        ("nats://[::1:4222", "nats://[::1:4222"),
        ("nats://[::1]4222", "nats://[::1]4222"),
        ("nats://[nonsense]:4222", "brackets"),
        ("nats://host:99999", "nats://host:99999"),
        ("nats://host:-1", "port"),
        ("nats://host:0", "port 0"),
        ("nats://ho st", "blanks"),
        ("nats://host\x00", "control characters"),
        ("nats://host\t:1", "blanks"),
        ("nats://host:1/path", "path"),
        ("http://host", "http://host"),
        ("ws://host", "ws://host"),
        ("host:4222", "scheme"),
        ("nats://", "no host"),
        ("", "no host"),
        ("nats://a,", "no host"),
    ],
)
def test_what_is_refused(url: str, told: str) -> None:
    """The message names the URL and what would be right."""
    with pytest.raises(Refused, match=r"is not a NATS URL.*use nats://host:port.*nats://\[address\]:port") as refused:
        servers_of(url)
    assert refused.value.reason == "bad_url"
    assert told in refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        "nats://sesame@host:99999",
        "nats://me:sesame@[::1",
        "nats://me:sesame",
        "http://sesame@host",
        "sesame@host",
        "nats://a/sesame@host:4222",
        "nats://ho st:sesame",
        "nats://good:1,nats://me:sesame@host:0",
    ],
)
def test_no_message_has_a_login(url: str) -> None:
    """A token or password is not repeated, wherever it was put."""
    with pytest.raises(Refused) as refused:
        servers_of(url)
    assert "sesame" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("nats://host", {}),
        ("nats://t%20k@host", {"token": "t k"}),
        ("nats://me:pass@[::1]", {"user": "me", "password": "pass"}),
        ("nats://a,nats://token@b", {"token": "token"}),
    ],
)
def test_the_login(url: str, login: dict[str, str]) -> None:
    """It is that of the first server that has one."""
    assert login_of(servers_of(url)) == login


def test_addresses() -> None:
    """Only an IPv6 address has brackets."""
    assert [address_of(host, 80) for host in ("host", "1.2.3.4", "::1")] == ["host:80", "1.2.3.4:80", "[::1]:80"]

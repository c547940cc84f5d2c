"""
Health URLs are treated as hostile: a probe connects to nothing outside the allowed networks.

Only 127.0.0.1 is allowed here. Canary servers listen on 127.0.0.2 and ::1, and must never see a connection. Names are
resolved by a stub, so nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.health.outcome import DETAIL_CHARS_MAX, CheckResult, report_of, told
from coordinator.health.probes import BODY_BYTES_MAX, Prober
from coordinator.health.resolver import Resolver
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

ALLOWED = [ip_network("127.0.0.1/32")]
CANARY = "127.0.0.2"

NAMES = {
    "good.test": ["127.0.0.1"],
    "evil.test": [CANARY],
    "mixed.test": ["127.0.0.1", CANARY],
    "mapped.test": [f"::ffff:{CANARY}"],
    "wrapped.test": ["::ffff:127.0.0.1"],
    "both.test": ["::1", "127.0.0.1"],
    "any.test": ["0.0.0.0"],
    "nowhere.test": [],
    "nonsense.test": ["not an address"],
}

# P is the port that the canaries, and a server that is allowed, listen on.
HOSTILE = [
    "http://127.0.0.2:P/",
    "HTTP://127.0.0.2:P/",
    "https://127.0.0.2:P/",
    "tcp://127.0.0.2:P",
    "http://2130706434:P/",
    "http://0x7f000002:P/",
    "http://0x7f.0.0.2:P/",
    "http://0177.0.0.2:P/",
    "http://127.2:P/",
    "http://127.0.2:P/",
    "http://127.0.0.002:P/",
    "http://[::ffff:127.0.0.2]:P/",
    "http://[::ffff:7f00:2]:P/",
    "http://[0:0:0:0:0:ffff:127.0.0.2]:P/",
    "tcp://[::ffff:127.0.0.2]:P",
    "http://[::1]:P/",
    "http://[0000::0001]:P/",
    "http://[::]:P/",
    "http://[::127.0.0.2]:P/",
    "http://0.0.0.0:P/",
    "http://0:P/",
    "http://127.0.0.1@127.0.0.2:P/",
    "http://127.0.0.1:P@127.0.0.2:P/",
    "http://127.0.0.1%40127.0.0.2:P/",
    "http://user:password@127.0.0.1:P/",
    "http://user@127.0.0.2:P/",
    "http://127.0.0.2:P#@127.0.0.1/",
    "http://127.0.0.2:P?@127.0.0.1/",
    "http://127.0.0.2:P\\@127.0.0.1/",
    "http://127.0.0.1\\@127.0.0.2:P/",
    "http://127。0。0。2:P/",
    "http://１２７.0.0.2:P/",
    "http://127.0.0.%32:P/",
    "http://evil.test:P/",
    "http://EVIL.test:P/",
    "http://mixed.test:P/",
    "http://mapped.test:P/",
    "http://any.test:P/",
    "tcp://evil.test:P",
    "https://evil.test:P/",
    "http://127.0.0.1 127.0.0.2:P/",
    "http://127.0.0.1\r\nHost: 127.0.0.2:P/",
    "http://127.0.0.1\t.2:P/",
    "//127.0.0.2:P/",
    "127.0.0.2:P",
    "gopher://127.0.0.2:P/_GET",
    "ftp://127.0.0.2:P/",
    "ws://127.0.0.2:P/",
    "file:///etc/passwd",
    "file://127.0.0.2:P/etc/passwd",
    "unix:///var/run/docker.sock",
    "data:text/plain,ok",
    "javascript:1",
    "http://",
    "http:///",
    "http://:P/",
    "http://[::1",
    "http://[fe80::1%25lo]:P/",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:0",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://192.168.1.100:8080/health",
    "",
]


class Listener:
    """A server on loopback: counts connections, keeps what it receives, and sends *answer*."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.connections = 0
        self.heard = b""
        self.sent = 0
        self.hangs = False
        self.endless = b""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.heard = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            while self.endless:
                writer.write(self.endless)
                self.sent += len(self.endless)
                await writer.drain()
            if self.hangs:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Place(NamedTuple):
    """A server that may be probed, servers that may not, and their common port."""

    server: Listener
    canary: Listener
    port: int


def answer(status: str = "200 OK", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, *([] if headers else [f"Content-Length: {len(body)}"]), "", ""]
    return "\r\n".join(lines).encode() + body


async def resolve(host: str, source: str) -> Sequence[str]:
    """Resolve numeric forms as the system does, and names by the table, without DNS."""
    if host.lower().rstrip(".") in NAMES:
        return NAMES[host.lower().rstrip(".")]
    socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)  # raises for a name
    return await Resolver().resolve(host, source)


def prober(*networks: str, timeout_s: float = 2.0, tls: ssl.SSLContext | None = None) -> Prober:
    inside = [ip_network(network) for network in networks] or ALLOWED
    return Prober(inside, timeout_s=timeout_s, resolve=resolve, tls=tls)


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    server, canary = Listener(answer()), Listener(answer())
    async with await asyncio.start_server(server.take, "127.0.0.1", 0, ssl=tls) as allowed:
        port = allowed.sockets[0].getsockname()[1]
        hosts = [CANARY, "::1"] if socket.has_dualstack_ipv6() else [CANARY]
        async with await asyncio.start_server(canary.take, hosts, port):
            yield Place(server, canary, port)


@pytest.mark.parametrize("url", HOSTILE)
async def test_hostile_urls(url: str) -> None:
    """A forbidden address is refused, an unresolvable name is at most a failure, and no connection is ever made."""
    async with listening() as place:
        with suppress(Refused, Unavailable):
            outcome = await prober().look(url.replace("P", str(place.port)))
            assert not outcome.ok
        await asyncio.sleep(0)
        assert place.canary.connections == place.server.connections == 0


async def test_the_canaries_sing() -> None:
    """The canary servers see a connection when it is allowed: the test above can fail."""
    async with listening() as place:
        for host in (CANARY, "2130706434", "evil.test", f"[::ffff:{CANARY}]"):
            before = place.canary.connections
            outcome = await prober("127.0.0.0/8").look(f"http://{host}:{place.port}/")
            assert outcome.ok
            assert place.canary.connections == before + 1


@pytest.mark.parametrize("host", ["127.0.0.1", "good.test", "GOOD.test.", "2130706433", "wrapped.test"])
async def test_what_is_allowed_is_looked_at(host: str) -> None:
    """The connection goes to the address that was checked, however it is written; the request carries the host name."""
    async with listening() as place:
        outcome = await prober().look(f"http://{host}:{place.port}/health?deep=1")
        assert (outcome.ok, outcome.detail) == (True, "answered 200")
        assert outcome.latency_ms > 0
        request = place.server.heard.lower()
        assert request.startswith(b"get /health?deep=1 http/1.1\r\n")
        assert f"host: {host.lower()}:{place.port}\r\n".encode() in request
        assert b"connection: close\r\n" in request
        for unwanted in (b"cookie", b"authorization", b"proxy"):
            assert unwanted not in request


async def test_a_name_is_resolved_once() -> None:
    """A name whose address changes between check and connection (DNS rebinding) gains nothing."""
    asked: list[str] = []

    async def rebinding(host: str, _: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else [CANARY]

    async with listening() as place:
        outcome = await Prober(ALLOWED, resolve=rebinding).look(f"http://rebind.test:{place.port}/")
        assert outcome.ok
        assert asked == ["rebind.test"]
        assert (place.server.connections, place.canary.connections) == (1, 0)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status: str) -> None:
    """A redirect is a failure, wherever it points."""
    async with listening() as place:
        place.server.answer = answer(
            status, f"Location: http://{CANARY}:{place.port}/", "Content-Length: 0", "Refresh: 0; url=http://127.0.0.2/"
        )
        outcome = await prober().look(f"http://127.0.0.1:{place.port}/")
        assert (outcome.ok, outcome.detail) == (False, f"answered {status[:3]}")
        assert place.canary.connections == 0


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe ignores proxies set in the environment."""
    async with listening() as place:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{CANARY}:{place.port}")
        assert (await prober().look(f"http://127.0.0.1:{place.port}/")).ok
        assert (place.server.connections, place.canary.connections) == (1, 0)


async def test_nothing_is_kept_between_looks() -> None:
    """No cookie and no connection of one probe is used by the next."""
    async with listening() as place:
        place.server.answer = answer("200 OK", "Set-Cookie: id=1; Path=/", "Content-Length: 0")
        looking = prober()
        for _ in range(3):
            await looking.look(f"http://127.0.0.1:{place.port}/")
            assert b"cookie" not in place.server.heard.lower()
        assert place.server.connections == 3


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("0.0.0.0/0", "169.254.169.254"),
        ("0.0.0.0/0", "0.0.0.0"),
        ("0.0.0.0/0", "224.0.0.1"),
        ("::/0", "[fe80::1]"),
        ("::/0", "[::]"),
        ("::/0", "[ff02::1]"),
        ("::/0", "127.0.0.1"),
        ("0.0.0.0/0", "[::1]"),
    ],
)
async def test_wide_networks_do_not_mean_everything(network: str, host: str) -> None:
    """Link-local, multicast and unspecified addresses must be allowed by a network that contains nothing else."""
    with pytest.raises(Refused, match="health_check_networks"):
        await prober(network).look(f"http://{host}:9/")


async def test_the_message_says_what_would_allow_it() -> None:
    """The message names the setting to change, and the value to add."""
    with pytest.raises(Refused) as refused:
        await prober().look("http://192.168.1.100:8080/health")
    assert "192.168.1.100" in refused.value.message
    assert "registry.health_check_networks" in refused.value.message
    assert "add 192.168.1.100/32" in refused.value.message


@pytest.mark.parametrize(
    ("said", "ok", "detail"),
    [
        (answer("204 No Content", "X: y"), True, "answered 204"),
        (answer("299 Fine"), True, "answered 299"),
        (answer("404 Not Found", body=b"<script>secret</script>"), False, "answered 404"),
        (answer("500 \x1b[31mRed"), False, "answered 500"),
        (answer("503 Service Unavailable"), False, "answered 503"),
        (answer(body=b"x" * 3 * BODY_BYTES_MAX), True, "answered 200"),
        (answer("200 OK", "Transfer-Encoding: chunked", "X: y") + b"nonsense\r\n", False, None),
        (answer("200 OK", "Content-Length: 10") + b"short", False, None),
        (b"SSH-2.0-OpenSSH\r\n", False, None),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000 + b"\r\n", False, None),
        (b"", False, None),
    ],
)
async def test_answers(said: bytes, ok: bool, detail: str | None) -> None:
    """2xx passes and every other status fails; nothing of the body is reported."""
    async with listening() as place:
        place.server.answer = said
        outcome = await prober().look(f"http://127.0.0.1:{place.port}/")
        assert outcome.ok is ok
        assert outcome.detail == detail if detail is not None else outcome.detail
        assert outcome.detail.isprintable()
        assert "secret" not in outcome.detail


async def test_an_endless_answer_is_cut_off() -> None:
    """Only a limited part of an answer is read."""
    async with listening() as place:
        place.server.answer = answer("200 OK", "X: y")
        place.server.endless = b"x" * 4096
        outcome = await prober().look(f"http://127.0.0.1:{place.port}/")
        assert outcome.ok
        assert outcome.latency_ms < 1500


async def test_silence_fails() -> None:
    """A server that accepts and does not answer fails at the time-out, also in the middle of its answer."""
    async with listening() as place:
        place.server.hangs = True
        for said in (b"", b"HTTP/1.1 200", answer("200 OK", "Content-Length: 5")):
            place.server.answer = said
            outcome = await prober(timeout_s=0.1).look(f"http://127.0.0.1:{place.port}/")
            assert (outcome.ok, outcome.detail) == (False, "no answer within 0.1 s")
            assert outcome.latency_ms == pytest.approx(100, abs=90)


async def test_a_resolver_that_fails_is_no_failure_of_the_service() -> None:
    """A resolver that hangs, has an error, or answers nonsense: the check could not be made, and the error says why."""

    async def hang(_: str, __: str) -> list[str]:
        await asyncio.sleep(60)
        return []

    async def fail(_: str, __: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for resolving, why in (
        (hang, "'slow.test' was not resolved within 0.05 s"),
        (fail, "Temporary failure in name resolution"),
        (resolve, "is malformed"),
    ):
        host = "nonsense.test" if resolving is resolve else "slow.test"
        with pytest.raises(Unavailable, match=why) as raised:
            await Prober(ALLOWED, timeout_s=0.05, resolve=resolving).look(f"http://{host}/")
        assert raised.value.reason == "could_not_check"


async def test_names_that_lead_nowhere() -> None:
    """A name without an address is a failure of the service: the resolver has answered."""
    assert not (await prober().look("http://nowhere.test/")).ok
    assert not (await prober().look("http://unknown.test/")).ok
    assert not (await prober().look(f"http://{'a' * 64}.test/")).ok


async def test_one_address_after_the_other() -> None:
    """When a name has several addresses, those that do not accept a connection are skipped."""
    server = Listener(answer())
    async with await asyncio.start_server(server.take, "127.0.0.1", 0) as allowed:
        port = allowed.sockets[0].getsockname()[1]
        for url in (f"http://both.test:{port}/", f"tcp://both.test:{port}"):
            assert (await prober("127.0.0.1/32", "::1/128").look(url)).ok
    outcome = await prober("127.0.0.1/32", "::1/128").look(f"tcp://both.test:{port}")
    assert not outcome.ok


async def test_tcp() -> None:
    """A tcp probe passes when the connection is accepted, and sends nothing."""
    async with listening() as place:
        outcome = await prober().look(f"tcp://good.test:{place.port}")
        assert (outcome.ok, outcome.detail) == (True, "accepted a connection")
    outcome = await prober().look(f"tcp://good.test:{place.port}")
    assert not outcome.ok
    assert "Connect" in outcome.detail or "refused" in outcome.detail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for `good.test`, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip(reason="there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=good.test"]
    files = ["-addext", "subjectAltName=DNS:good.test", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


async def test_https(certificate: Path) -> None:
    """The certificate is checked against the name in the URL, although the connection goes to the address."""
    named: list[str | None] = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    serving.sni_callback = lambda _socket, name, _context: named.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate.with_name("cert")))
    async with listening(serving) as place:
        outcome = await prober(tls=trusting).look(f"https://good.test:{place.port}/")
        assert (outcome.ok, outcome.detail) == (True, "answered 200")
        assert named == ["good.test"]
        for host in ("wrapped.test", "127.0.0.1"):
            outcome = await prober(tls=trusting).look(f"https://{host}:{place.port}/")
            assert not outcome.ok
            assert "certificate" in outcome.detail.lower()
        outcome = await prober().look(f"https://good.test:{place.port}/")  # not trusted by the system
        assert not outcome.ok
        assert "certificate" in outcome.detail.lower()


_url_text = st.text(st.characters(codec="utf-8"), max_size=40)
_urls = st.builds(
    "{}{}{}".format, st.sampled_from(["", "http://", "https://", "tcp://", "http://["]), _url_text, _url_text
)


@given(_urls)
def test_any_text_is_survived(url: str) -> None:
    """Probing any URL returns a result or is refused; without allowed networks it never passes."""

    async def look() -> CheckResult:
        return await Prober([], timeout_s=0.5, resolve=resolve).look(url)

    with suppress(Refused, Unavailable):
        assert not asyncio.run(look()).ok


def test_what_is_told_of_an_error() -> None:
    """The detail is one line of printable text, cut to a limit."""
    assert told(ValueError()) == "ValueError"
    assert told(ValueError("a\x00b")) == "ValueError: a�b"
    assert len(told(ValueError("x" * 5000))) == DETAIL_CHARS_MAX


def test_the_report_of_a_look() -> None:
    """The report names the kind of check and carries the detail, cut to the coordinator's limit."""
    report = report_of("s", "HTTPS://a/", CheckResult(ok=False, detail="x" * 100, latency_ms=1.5), detail_chars_max=64)
    assert (report.service_id, report.ok, report.check, report.latency_ms) == ("s", False, "https", 1.5)
    assert report.detail == f"{'x' * 46}… (100 characters)"

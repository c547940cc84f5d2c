"""
The parser of the NATS protocol, for messages; nats-py's own does the rest.

nats-py copies each message three times and matches two patterns on it. A coordinator reads whatever anybody sends, up
to hundreds of megabytes a second, and everybody waits behind it: here a message is cut out of what was read, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Callable

    # sid, subject, reply, data, raw header block
    Take = Callable[[int, bytes, bytes, bytes, bytes | None], None]

LINE_BYTES_MOST = 64 * 1024
"""The longest line. A message has at most 4096; the server's information on itself grows with its cluster."""

_WORDS = {b"MSG": 4, b"HMSG": 5}
"""How many words the line before a message has, without the reply subject."""


class MessageParser(Parser):
    """Calls *take* for each message, in order; it must not raise. Everything else is left to nats-py."""

    def __init__(self, client: object, take: Take) -> None:
        self._take = take
        self._resets = 0
        super().__init__(client)

    def reset(self) -> None:
        """Begin again, with a new connection."""
        super().reset()
        self._resets += 1
        self._line = b""
        """The beginning of a line whose end was not read yet."""
        self._skip = 0
        """Bytes of a line end that were not read yet."""
        self._head: tuple[int, bytes, bytes, int] | None = None
        """The sid, subject, reply and length of the headers of a message that was not read whole."""
        self._parts: list[bytes] = []
        self._left = 0

    async def parse(self, data: bytes = b"") -> None:
        """
        Take what was read from the connection.

        Raises:
            ProtocolError: this is not the protocol.
        """
        at = 0
        if self._head is not None:
            at = self._go_on(data)
            if self._head is not None:
                return
        elif self._skip:
            at = min(self._skip, len(data))
            self._skip -= at
        elif self._line:
            data, self._line = self._line + data, b""
        resets = self._resets
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > LINE_BYTES_MOST:
                    msg = "nats: a line is too long"
                    raise ProtocolError(msg)
                self._line = data[at:]
                return
            if data.startswith((b"MSG ", b"HMSG "), at):
                at = self._message(data, at, end + 2)
                continue
            await super().parse(data[at : end + 2])
            if self._resets != resets:  # what follows is of the connection that ended
                return
            if self.buf:
                msg = f"nats: unknown line of {end - at} bytes"
                raise ProtocolError(msg)
            at = end + 2

    def _message(self, data: bytes, at: int, begin: int) -> int:
        """Take the message whose line begins at *at*, or what there is of it; return where the next one begins."""
        words = data[at : begin - 2].split()
        has_reply = len(words) - _WORDS[words[0]]
        try:
            sid, size = int(words[2]), int(words[-1])
            headers = int(words[-2]) if words[0] == b"HMSG" else 0
        except (ValueError, IndexError):
            has_reply = sid = size = headers = -1
        if has_reply not in (0, 1) or not 0 <= headers <= size:
            msg = "nats: malformed MSG"
            raise ProtocolError(msg)
        reply = words[3] if has_reply else b""
        end = begin + size
        if end > len(data):
            self._head, self._parts, self._left = (sid, words[1], reply, headers), [data[begin:]], end - len(data)
            return len(data)
        if headers:
            self._take(sid, words[1], reply, data[begin + headers : end], data[begin : begin + headers])
        else:
            self._take(sid, words[1], reply, data[begin:end], None)
        self._skip = max(0, end + 2 - len(data))
        return end + 2

    def _go_on(self, data: bytes) -> int:
        """Take more of a message that was not read whole; return where the next one begins."""
        left = self._left
        self._parts.append(data if left >= len(data) else data[:left])
        if left > len(data):
            self._left -= len(data)
            return len(data)
        assert self._head is not None
        sid, subject, reply, headers = self._head
        whole = b"".join(self._parts)
        self._head, self._parts, self._left = None, [], 0
        if headers:
            self._take(sid, subject, reply, whole[headers:], whole[:headers])
        else:
            self._take(sid, subject, reply, whole, None)
        self._skip = max(0, left + 2 - len(data))
        return left + 2

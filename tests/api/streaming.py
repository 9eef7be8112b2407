"""A stream by hand on a raw socket: lines go out in any pieces while answers are read, or not read."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_SECONDS = 30.0


class RawStream:
    """One `POST /score/stream` in chunked encoding."""

    def __init__(self, connection: socket.socket, query: str = "", headers: str = "") -> None:
        self.socket = connection
        self._answer: http.client.HTTPResponse | None = None
        head = f"POST /score/stream{query} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
        connection.sendall(head.encode())

    @property
    def answer(self) -> http.client.HTTPResponse:
        if self._answer is None:
            self._answer = http.client.HTTPResponse(self.socket)
            self._answer.begin()
        return self._answer

    def send(self, content: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(content), content))

    def send_item(self, **item: Any) -> None:
        """Send an item on a line of its own; what is not given is made up."""
        self.send(json.dumps({"prompt": "a", "response": "b"} | item).encode() + b"\n")

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def line(self) -> dict[str, Any]:
        """Return the next line of the answer."""
        line: dict[str, Any] = json.loads(self.answer.readline())
        return line

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines up to the end of the answer, which must be whole."""
        return [json.loads(line) for line in self.answer.read().splitlines()]

    def is_closed(self) -> bool:
        """Say whether the server has closed the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def raw_stream(port: int, query: str = "", headers: str = "", buffer_bytes: int | None = None) -> Iterator[RawStream]:
    """Open a stream; `buffer_bytes` makes the caller's socket hold little."""
    with socket.socket() as connection:
        if buffer_bytes is not None:
            for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                connection.setsockopt(socket.SOL_SOCKET, side, buffer_bytes)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", port))
        yield RawStream(connection, query, headers)

"""Requests whose end two servers could see in two places, and ways around a key: refused, with nothing read after."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.api.serving import Served, serving

START = b"POST /score HTTP/1.1\r\nHost: x\r\nX-API-Key: key\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\nX-API-Key: key\r\n\r\n"
NO_CHUNK, TWO_BYTES = b"\r\n0\r\n\r\n", b"\r\n{}"
TWO_ENDS: dict[str, bytes] = {
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + NO_CHUNK,
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" + NO_CHUNK,
    "two lengths": b"Content-Length: 2\r\nContent-Length: 40\r\n" + TWO_BYTES,
    "a list of lengths": b"Content-Length: 2, 2\r\n" + TWO_BYTES,
    "a length with a sign": b"Content-Length: +2\r\n" + TWO_BYTES,
    "a negative length": b"Content-Length: -2\r\n" + TWO_BYTES,
    "a length in hexadecimal": b"Content-Length: 0x2\r\n" + TWO_BYTES,
    "a folded length": b"Content-Length:\r\n 2\r\n" + TWO_BYTES,
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n" + NO_CHUNK,
    "another encoding": b"Transfer-Encoding: xchunked\r\n" + NO_CHUNK,
    "chunks not last": b"Transfer-Encoding: chunked, identity\r\n" + NO_CHUNK,
    "a chunk that goes on": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
    "a zero in a name": b"X\0: 1\r\nContent-Length: 2\r\n" + TWO_BYTES,
    "a zero in a value": b"X: \0\r\nContent-Length: 2\r\n" + TWO_BYTES,
}
WAYS_AROUND = [
    "//info",
    "/info/",
    "/livez/",
    "/livez/../info",
    "/livez;/info",
    "/livez%2f..%2finfo",
    "/metrics/../info",
]


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(api_keys="key") as running:
        yield running


def statuses(connection: socket.socket) -> list[str]:
    """Return the statuses of every answer until the server closes the connection."""
    answers = b"".join(iter(lambda: connection.recv(65536), b""))
    return [status.decode() for status in re.findall(rb"HTTP/1\.1 (\d+)", answers)]


@pytest.mark.parametrize("name", TWO_ENDS)
def test_what_has_two_ends_is_refused_and_nothing_after_it_is_read(keyed: Served, name: str) -> None:
    with keyed.connection() as connection:
        connection.sendall(START + TWO_ENDS[name] + HIDDEN)
        assert statuses(connection) == ["400"]


@pytest.mark.parametrize("path", WAYS_AROUND)
def test_no_spelling_of_a_path_gets_around_a_key(keyed: Served, path: str) -> None:
    with keyed.connection() as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        assert statuses(connection) == ["401"]


def test_a_key_in_a_header_that_looks_alike_is_none(keyed: Served) -> None:
    assert keyed.client.get("/info", headers={"X_API_Key": "key"}).status_code == 401
    assert keyed.client.get("/info", headers={"X-API-Key": "key"}).status_code == 200

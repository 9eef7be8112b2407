"""API keys: every route needs one unless it is listed as open. Checked before a body is read, in constant time."""

import base64
import binascii
import hmac
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.api.request_context import request_id_of
from app.errors import Unauthorized
from app.serving.record import current_record


class Authentication:
    """Turn away requests without a valid key. Without keys the service is open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Collection[str]) -> None:
        self.app = app
        # Digests have one length, so that a comparison tells nothing about a key's.
        self.key_digests = tuple(sha256(key.encode()).digest() for key in keys)
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.key_digests or scope["path"] in self.open_paths or self._admits(scope):
            await self.app(scope, receive, send)
            return
        error = Unauthorized("a valid key is needed: Authorization: Bearer, X-API-Key, or the password of Basic")
        await problem_response(error, request_id_of(scope))(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        """Say whether a valid key is shown, and remember which as the caller."""
        matches = [
            digest
            for shown in shown_keys(scope["headers"])
            for digest in self.key_digests
            if hmac.compare_digest(sha256(shown).digest(), digest)
        ]
        if matches:
            current_record().caller = matches[0].hex()
        return bool(matches)


def shown_keys(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield every key that a request shows, in any of the three ways."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield rest.strip()
            elif scheme.lower() == b"basic":
                yield _basic_password(rest.strip())


def _basic_password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""

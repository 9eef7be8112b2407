"""What schemathesis has to be told to fuzz the service: how lines of JSON are written. Named in schemathesis.toml."""

import json
from typing import Any

import schemathesis

from app.api.line_stream import MEDIA_TYPE


@schemathesis.serializer(MEDIA_TYPE)
def written_lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """Write a text as it is, and anything else as one line."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()

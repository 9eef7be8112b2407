"""A small collector: takes traces over OTLP/HTTP and writes what it decoded, one span a line, to a file.

`python -m tests.end_to_end.otlp_receiver SPANS [--port PORT]`
"""

import json
import sys
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def line(span: Span, resource: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "trace_state": span.trace_state,
        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
        "attributes": attributes(span.attributes),
        "status": span.status.code,
        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        "resource": resource,
    }


class Receiver(BaseHTTPRequestHandler):
    """Takes one batch a request."""

    def do_POST(self) -> None:
        if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
            self.send_error(404)
            return
        batch = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        with Path(sys.argv[1]).open("a") as spans:
            for one in batch.resource_spans:
                resource = attributes(one.resource.attributes)
                for span in (span for scope in one.scope_spans for span in scope.spans):
                    spans.write(json.dumps(line(span, resource)) + "\n")
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Receiver)
    sys.stdout.write(f"running on http://127.0.0.1:{server.server_port}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()

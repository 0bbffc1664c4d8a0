"""A collector of OpenTelemetry's spans, as OTEL_EXPORTER_OTLP_ENDPOINT names one."""

import queue
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.served import Served


class SpanCollector(Served):
    """A web server that keeps the spans it receives."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
        super().__init__(HTTPServer(("127.0.0.1", 0), self._make_handler()))

    def spans(self, timeout_s: float) -> Iterator[tuple[str, Any]]:
        """Yield each span that arrives, after the name of its service. End when none arrives for timeout_s."""
        while True:
            try:
                yield self._arrived.get(timeout=timeout_s)
            except queue.Empty:
                return

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        arrived = self._arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                    [service] = [
                        attribute.value.string_value
                        for attribute in resource.resource.attributes
                        if attribute.key == "service.name"
                    ]
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            arrived.put((service, span))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler

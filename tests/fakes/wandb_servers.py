"""Servers that wandb may meet, and that are of no use to it, or not for long."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def silent() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    """Nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def answering(status: int | None) -> Iterator[str]:
    """Shows its front page; whatever else is asked gets this status and nothing with it, or None: no answer at all."""
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/" else status)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._answer(status)

        def _answer(self, code: int | None) -> None:
            if code is None:
                end.wait()
                return
            self.send_response(code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            end.set()
            server.shutdown()
            thread.join()


@dataclass
class LiveServer:
    """Takes runs as wandb's own server does, until it is told to stall."""

    address: str = ""
    streamed: threading.Event = field(default_factory=threading.Event)  # metrics of a run have arrived
    stalled: threading.Event = field(default_factory=threading.Event)  # set it: no request is answered any more
    end: threading.Event = field(default_factory=threading.Event)


@contextmanager
def working() -> Iterator[LiveServer]:
    """The few answers that a run needs, to the point where the server dies on it."""
    live = LiveServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path.endswith("/file_stream"):
                self._answer(b"{}")
                live.streamed.set()
            else:
                self._answer(json.dumps({"data": _answer_to(json.loads(body))}).encode())

        def _answer(self, content: bytes) -> None:
            if live.stalled.is_set():
                live.end.wait()
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        live.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield live
        finally:
            live.end.set()
            server.shutdown()
            thread.join()


def _answer_to(request: dict[str, object]) -> dict[str, object]:
    query, variables = str(request["query"]), request.get("variables")
    name = variables.get("name") if isinstance(variables, dict) else None
    entity = {"id": "e", "name": "me"}
    project = {"id": "p", "name": "metta", "entity": entity}
    if "mutation UpsertBucket" in query:
        bucket = {"id": "b", "name": name, "displayName": name, "project": project, "config": "{}", "sweepName": ""}
        return {"upsertBucket": {"bucket": {**bucket, "description": "", "historyLineCount": 0}, "inserted": True}}
    if "RunResumeStatus" in query:
        return {"model": {**project, "bucket": None}}
    if "mutation CreateRunFiles" in query:
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
    return {}

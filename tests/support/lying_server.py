"""A tracking server that lies: it asks a real one, and changes what that answers."""

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """What a server answers.

    Attributes:
        body: of the answer.
        status: of HTTP.
        headers: further ones, and those that replace the usual.
        n_repeats: how often the body is sent, in one answer.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    n_repeats: int = 1


Lie = Callable[[str, Reply], Reply]
"""Given the path that was asked for and the true answer, says another."""


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        reply = self.server.lie(self.path, self._ask(self.rfile.read(length) or None))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body))}
        self.send_response(reply.status)
        for name, value in {**headers, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has had enough
            for _ in range(reply.n_repeats):
                self.wfile.write(reply.body)

    do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815  names of the library

    def _ask(self, body: bytes | None) -> Reply:
        address = self.server.true_url + self.path
        kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        question = urllib.request.Request(address, body, kind, method=self.command)
        try:
            with urllib.request.urlopen(question, timeout=30) as answer:
                return Reply(answer.read(), answer.status)
        except urllib.error.HTTPError as error:
            return Reply(error.read(), error.code)

    def log_message(self, *_: object) -> None: ...


class _Server(ThreadingHTTPServer):
    true_url: str
    lie: Lie
    daemon_threads = True


@contextlib.contextmanager
def lying_server(true_url: str, lie: Lie) -> Iterator[str]:
    """The address of a server that lies for the length of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.true_url, server.lie = true_url, staticmethod(lie)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def instead(place: str, **changes: object) -> Lie:
    """A lie about the paths that contain `place`: the answer with some of its parts replaced."""
    return lambda path, true: replace(true, **changes) if place in path else true

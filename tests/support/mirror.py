"""Made-up MNIST files and a mirror on loopback that misbehaves on request."""

import contextlib
import gzip
import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from mlp.data.mnist import MNIST, IdxFile, Source


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def made_up_contents() -> dict[str, bytes]:
    """60 training and 20 test images of random pixels, every digit equally often."""
    random = np.random.RandomState(7)
    contents = {}
    for images, labels, n_examples in ((*MNIST.files[:2], 60), (*MNIST.files[2:], 20)):
        contents[images.name] = idx_bytes(random.randint(0, 256, (n_examples, 28, 28)))
        contents[labels.name] = idx_bytes(np.arange(n_examples) % 10)
    return contents


def files_of(contents: dict[str, bytes]) -> tuple[IdxFile, ...]:
    return tuple(
        IdxFile(
            name,
            len(raw),
            hashlib.sha256(raw).hexdigest(),
            hashlib.sha256(gzipped(raw)).hexdigest(),
        )
        for name, raw in contents.items()
    )


def gzipped(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


def put(folder: Path, contents: dict[str, bytes], *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzipped(raw))
        else:
            (folder / name).write_bytes(raw)
    return folder


class Mirror(ThreadingHTTPServer):
    """Serves made-up files; answers the first requests with the planned faults."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, contents: dict[str, bytes], *faults: str, for_ever: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.contents = contents
        self.faults = list(faults)
        self.for_ever = for_ever
        self.requests: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def next_fault(self) -> str:
        if self.for_ever:
            return self.faults[0]
        return self.faults.pop(0) if self.faults else "none"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are part of the play."""


class _Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        fault = self.server.faults[0] if self.server.for_ever else "none"
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "reset":
            self._reset()
        else:
            self._send(b"", announced=0)

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.requests.append(name)
        raw = self.server.contents[name.removesuffix(".gz")]
        payload = gzipped(raw)
        fault = self.server.next_fault()
        if fault == "reset":
            self._reset()
        elif fault == "reset midway":
            self._send(payload[:100], announced=len(payload))
            self.wfile.flush()
            self._reset()
        elif fault == "stall":
            self.server.closing.wait(30)
        elif fault == "stall midway":
            self._send(payload[:100], announced=len(payload))
            self.server.closing.wait(30)
        elif fault == "truncated":
            self._send(payload[: len(payload) // 2], announced=len(payload))
        elif fault.isdigit():
            self.send_error(int(fault))
        else:
            contents = {
                "none": payload,
                "page": b"\n<!doctype html><title>Please log in</title>",
                "empty": b"",
                "wrong": gzipped(raw[:-1] + bytes([raw[-1] ^ 1])),
                "bit flip": payload[:-20] + bytes([payload[-20] ^ 255]) + payload[-19:],
            }
            self._send(contents[fault])

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _send(self, content: bytes, announced: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@contextlib.contextmanager
def mirror(contents: dict[str, bytes], *faults: str, for_ever: bool = False) -> Iterator[Mirror]:
    server = Mirror(contents, *faults, for_ever=for_ever)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def dead_url() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


def quick(contents: dict[str, bytes], *mirrors: str) -> Source:
    """A source with little patience."""
    return Source(files_of(contents), mirrors, silence_s=0.5, retries=1)

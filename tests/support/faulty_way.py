"""A tracking server, and a way to it that fails on request: a TCP proxy on loopback."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from support.servers import free_port, mlflow_server

Mode = Literal["pass", "refuse", "reset", "black hole", "slow", "500", "lost answer"]

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class FaultyWay:
    """Leads from a port of its own to a server's port; `set` says how well.

    Attributes:
        port: where clients connect.
        pause_s: before each answer while it is slow.
        n_connections: that were made so far, in any mode.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.pause_s = 0.5
        self.n_connections = 0
        self._server_port = server_port
        self._mode: Mode = "pass"
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.set("pass")

    def set(self, mode: Mode) -> None:
        """Changes the mode; connections that are open end as it would end them."""
        self._run(self._set(mode))

    def close(self) -> None:
        self._run(self._set("refuse"))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        for writer in list(self._open):
            self._reset(writer)
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        if mode != "refuse" and self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self._mode == "reset":
                self._reset(writer)
            elif self._mode == "black hole":
                await reader.read()  # until the client has had enough
            elif self._mode == "500":
                await reader.read(65536)
                writer.write(_ERROR)
                await writer.drain()
            else:
                await self._lead(reader, writer)
        self._open.discard(writer)
        writer.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the server and back."""
        there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._open.add(back)
        forth = asyncio.ensure_future(self._copy(reader, back))
        try:
            while data := await there.read(65536):
                if self._mode == "lost answer":
                    self._reset(writer)
                    return
                if self._mode == "slow":
                    await asyncio.sleep(self.pause_s)
                writer.write(data)
                await writer.drain()
        finally:
            forth.cancel()
            self._open.discard(back)
            back.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        writer.transport.abort()
        self._open.discard(writer)


@contextlib.contextmanager
def faulty_way(server_port: int) -> Iterator[FaultyWay]:
    way = FaultyWay(server_port)
    try:
        yield way
    finally:
        way.close()


@dataclass
class Server:
    """A real `mlflow server` over a store that is made, and the faulty way to it.

    Attributes:
        folder: of its database and its files.
        port: its own.
        way: to it.
    """

    folder: Path
    port: int
    way: FaultyWay
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        """Its address without the faulty way."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = f"sqlite:///{self.folder}/mlflow.db"
        self._running.enter_context(mlflow_server(self.folder, store, port=self.port))

    def kill(self) -> None:
        self._running.close()


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[Server]:
    port = free_port()
    with faulty_way(port) as way:
        server = Server(folder, port, way)
        try:
            server.start()
            yield server
        finally:
            server.kill()

"""MNIST's files in the user's cache folder: read from there, downloaded when missing or damaged.

A download is collected in memory, verified, written beside its place and renamed when whole. Each
attempt runs in a thread of its own, so that no kind of silence (names looked up, connections made,
bytes that trickle) lasts longer than allowed. Bytes that differ from the published ones are kept
as `.bad`; no file is deleted.
"""

import contextlib
import dataclasses
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from mlp.data.idx import (
    GZIP_MAGIC,
    MNIST_FILES,
    Content,
    IdxFile,
    damage,
    examine,
    examine_file,
    find,
)
from mlp.errors import DataError, StoreError, UnavailableError


@dataclass(frozen=True)
class Source:
    """What is downloaded from where, and with how much patience.

    Attributes:
        files: what to get.
        mirrors: addresses of folders that hold the files as `name.gz`, in order of preference.
        silence_s: an attempt is given up when nothing came for so long; in seconds.
        attempts: a mirror that failed so often, over all files, is not asked again.
        backoff_s: pause after a mirror's first failure; it doubles with each further one.
    """

    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    silence_s: float = 10.0
    attempts: int = 3
    backoff_s: float = 1.0

    def hurried(self, silence_s: float) -> "Source":
        """The same source with at most so much silence, over all mirrors and files together."""
        share = silence_s / max(1, len(self.mirrors))
        return dataclasses.replace(self, attempts=1, silence_s=share)


MNIST = Source(
    files=MNIST_FILES,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
        "https://storage.googleapis.com/cvdf-datasets/mnist/",  # that of TensorFlow Datasets
    ),
)

_CHUNK_BYTES = 2**16  # bytes count as arrived when a chunk is full, or the file at its end
_POLL_S = 0.05
_WORTH_RETRYING = frozenset({408, 425, 429})  # of the 4xx; other 4xx would only be said again


def cache_folder() -> Path:
    """The user's own cache folder for the files; it need not exist."""
    import pooch  # a tenth of a second, and needed for nothing else before a download

    return Path(pooch.os_cache("mlp-sweep")) / "mnist"


def read_cache(folder: Path, source: Source, *, notice: Callable[[str], None]) -> dict[str, bytes]:
    """Reads files from a folder of our own; what is missing or damaged is downloaded into it.

    A damaged file stays in place until its replacement is verified; then it is kept as `.bad`.

    Args:
        folder: made where it does not exist.
        source: the files, and where they come from; not asked where all files are whole.
        notice: told about downloads, failed attempts and replaced files, one line each.

    Returns:
        File name -> unpacked bytes, verified.

    Raises:
        UnavailableError: where files are missing and no mirror gives them.
        DataError: for a damaged file that cannot be replaced, or wrong bytes from the mirrors.
        StoreError: for a folder or file that cannot be read or written.
    """
    found = {
        file: examine_file(path, file) for file in source.files if (path := find(folder, file))
    }
    contents = {file.name: content.raw for file, content in found.items() if not content.fault}
    wanted = [file for file in source.files if file.name not in contents]
    if not wanted:
        return contents
    try:
        _check_writable(folder)
        return contents | _download(folder, wanted, source, notice)
    except (UnavailableError, StoreError) as error:
        for file, content in found.items():
            if content.fault:
                path = find(folder, file) or folder / file.name
                raise DataError(
                    f"{path} {damage(content, file)}; it was not replaced, as {error}"
                ) from None
        raise


@dataclass
class _Mirror:
    """A mirror's record over one download."""

    url: str
    n_failures: int = 0
    last_failure: str = ""
    has_wrong_bytes: bool = False

    @property
    def summary(self) -> str:
        """Its host and the reason of its last failure, in a few words."""
        return f"{urlsplit(self.url).netloc} {self.last_failure.partition(' ')[2]}"


class _FailedError(Exception):
    """An attempt that brought no bytes; final if the mirror would only answer the same again."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def _download(
    folder: Path, wanted: Iterable[IdxFile], source: Source, notice: Callable[[str], None]
) -> dict[str, bytes]:
    """Downloads files into the folder, each kept as soon as it is verified."""
    mirrors = [_Mirror(url if url.endswith("/") else f"{url}/") for url in source.mirrors]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    contents: dict[str, bytes] = {}
    notice(f"MNIST is downloaded into {folder}")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        for file in wanted:
            while file.name not in contents:
                mirror = _next_mirror(mirrors, source)
                if mirror.n_failures:
                    time.sleep(source.backoff_s * 2 ** (mirror.n_failures - 1))
                try:
                    payload = _receive(mirror, file, source, progress)
                    contents[file.name] = _verified(payload, file, mirror, folder).raw
                    _keep(payload, file, folder, notice)
                except _FailedError as error:
                    mirror.n_failures = source.attempts if error.is_final else mirror.n_failures + 1
                    mirror.last_failure = f"{mirror.url}{file.name}.gz {error}"
                    notice(mirror.last_failure)
    return contents


def _next_mirror(mirrors: list[_Mirror], source: Source) -> _Mirror:
    """The mirror that failed least, the first of them; an error where all failed too often."""
    asked = [mirror for mirror in mirrors if mirror.n_failures < source.attempts]
    if asked:
        return min(asked, key=lambda mirror: mirror.n_failures)
    failures = "; ".join(mirror.summary for mirror in mirrors) or "no mirror is known"
    if any(mirror.has_wrong_bytes for mirror in mirrors):
        raise DataError(f"MNIST could not be downloaded: {failures}")
    raise UnavailableError(
        f"MNIST could not be downloaded: {failures} (data.root=FOLDER, or MLP_DATA_ROOT in the "
        "environment, reads the files from a folder; data=digits needs none)"
    )


def _verified(payload: bytes, file: IdxFile, mirror: _Mirror, folder: Path) -> Content:
    """The content of a download; wrong bytes are kept as `.bad`, half ones are not."""
    content = examine(payload, file)
    if content.is_partial:
        raise _FailedError(content.fault)
    if content.fault:
        mirror.has_wrong_bytes = True
        bad = folder / f"{file.name}.gz.{content.sha256[:8]}.bad"
        _write(payload, bad)
        raise _FailedError(f"{damage(content, file)}; kept as {bad}", is_final=True)
    return content


def _keep(payload: bytes, file: IdxFile, folder: Path, notice: Callable[[str], None]) -> None:
    """Puts a verified download in its place; a damaged file that lies there becomes `.bad`."""
    while path := find(folder, file):
        content = examine_file(path, file)
        if not content.fault:
            return  # another process was faster
        bad = path.with_name(f"{path.name}.{content.sha256[:8]}.bad")
        try:
            path.replace(bad)
        except FileNotFoundError:
            continue  # another process was faster
        except OSError as error:
            raise StoreError(_unwritable(folder, error)) from None
        notice(f"{path} {damage(content, file)}; it was replaced, and kept as {bad}")
    suffix = ".gz" if payload.startswith(GZIP_MAGIC) else ""
    _write(payload, folder / f"{file.name}{suffix}")


def _write(payload: bytes, path: Path) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StoreError(_unwritable(path.parent, error, len(payload))) from None


def _check_writable(folder: Path) -> None:
    """Fails before anything is downloaded, not after."""
    probe = folder / f"probe.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(_unwritable(folder, error)) from None


def _unwritable(folder: Path, error: OSError, n_bytes: int = 0) -> str:
    needed = f" ({n_bytes} bytes needed)" if n_bytes else ""
    return (
        f"the cache folder {folder} cannot be written{needed}: {error.strerror or error} "
        "(data.root=FOLDER reads the MNIST files from a folder, data=digits needs none)"
    )


class _Incoming:
    """Takes a download in memory; to pooch it is both the file and the progress bar."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.payload = bytearray()
        self.total = 0  # set by pooch, as announced; 0: unknown
        self.response: Any = None  # that of requests, which pooch leaves open after an error
        self.error: OSError | None = None
        self.last_s = time.monotonic()
        self.is_abandoned = False
        self.done = threading.Event()

    def answered(self, response: Any, **_options: object) -> None:
        self.response = response

    def write(self, chunk: bytes) -> None:
        if self.is_abandoned:
            raise OSError("nobody waits for this any more")
        self.payload += chunk
        self.last_s = time.monotonic()
        if len(self.payload) > self.most_bytes:
            raise OSError(f"sent more than {self.most_bytes} bytes")

    def flush(self) -> None: ...

    def update(self, _n_bytes: int) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


def _receive(mirror: _Mirror, file: IdxFile, source: Source, progress: Progress) -> bytes:
    """One attempt at one file; watched, so that it ends whatever the network does."""
    incoming = _Incoming(file.most_bytes)
    url = f"{mirror.url}{file.name}.gz"
    task = progress.add_task(f"{file.name}.gz", total=None)
    threading.Thread(target=_run, args=(url, incoming, source.silence_s), daemon=True).start()
    try:
        while not incoming.done.wait(_POLL_S):
            if time.monotonic() - incoming.last_s > source.silence_s:
                raise _FailedError(f"was silent for {source.silence_s:g} seconds")
            progress.update(task, completed=len(incoming.payload), total=incoming.total or None)
    finally:
        incoming.is_abandoned = True
        progress.remove_task(task)
    if incoming.error is not None:
        status = getattr(getattr(incoming.error, "response", None), "status_code", 0)
        is_final = 400 <= status < 500 and status not in _WORTH_RETRYING
        raise _FailedError(_reason(incoming.error), is_final=is_final)
    return bytes(incoming.payload)


def _run(url: str, incoming: _Incoming, silence_s: float) -> None:
    import pooch

    get = pooch.HTTPDownloader(
        progressbar=incoming,
        chunk_size=_CHUNK_BYTES,
        timeout=silence_s,
        headers={"Accept-Encoding": "identity"},  # the file is packed already
        hooks={"response": incoming.answered},
    )
    try:
        get(url, incoming, None)
    except OSError as error:  # all errors of requests are OSErrors
        incoming.error = error
    finally:
        if incoming.response is not None:
            incoming.response.close()
        incoming.done.set()


def _reason(error: BaseException) -> str:
    """What lies at the bottom of a chain of errors, which the network libraries wrap deeply."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return f"failed: {' '.join(str(error).split()) or type(error).__name__}"

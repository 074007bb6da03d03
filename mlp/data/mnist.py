"""MNIST's four files: where they lie or come from, which bytes they must have, what is in them.

No bytes pass whose SHA-256 is not the published one.
"""

import hashlib
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from mlp.errors import DataError, MissingInputError, StoreError, UnavailableError, one_line

_GZIP_MAGIC = b"\x1f\x8b"
_UINT8_MAGIC = b"\x00\x00\x08"  # the fourth byte is the number of dimensions


@dataclass(frozen=True)
class IdxFile:
    """A file by its published content.

    Attributes:
        name: of the unpacked file; packed it is called `name.gz`.
        sha256: of the unpacked bytes, 64 hex digits.
        packed_sha256: of `name.gz` as the mirrors have it.
    """

    name: str
    n_bytes: int
    sha256: str
    packed_sha256: str

    @property
    def packed(self) -> str:
        """The name of the packed file."""
        return f"{self.name}.gz"


@dataclass(frozen=True)
class Source:
    """What is downloaded from where, and with how much patience.

    Attributes:
        mirrors: addresses of folders that hold the files as `name.gz`, in order of preference.
        silence_s: an attempt is given up when nothing came for so long; in seconds.
        retries: how often a mirror that failed is asked again for a file.
        is_asked_first: whether only mirrors are used that answer a question within `silence_s`,
            whatever holds them up.
    """

    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    silence_s: float = 10.0
    retries: int = 2
    is_asked_first: bool = False


MNIST = Source(
    files=(
        IdxFile(
            "train-images-idx3-ubyte",
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        IdxFile(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
        "https://storage.googleapis.com/cvdf-datasets/mnist/",  # that of TensorFlow Datasets
    ),
)


def cache_folder() -> Path:
    """The user's own cache folder for the files; it need not exist."""
    import pooch  # a tenth of a second, and needed for nothing else before a download

    return Path(pooch.os_cache("mlp-sweep")) / "mnist"


def read_folder(folder: Path, files: Iterable[IdxFile]) -> dict[str, bytes]:
    """Reads files, unpacked or as `.gz`, from a folder that is not ours: it is only read.

    Returns:
        File name -> unpacked bytes, verified.

    Raises:
        MissingInputError: where files are not there; names them and the folder.
        DataError: for other bytes than the published ones; says file and both digests.
        StoreError: for a folder or file that cannot be read.
    """
    try:
        folder = folder.expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise StoreError(f"{folder} cannot be read: {error}") from None
    if not is_folder:
        raise MissingInputError(f"{folder} must be a folder with the MNIST files, but is none")
    found = {file.name: read_either(folder, file) for file in files}
    if missing := [name for name, raw in found.items() if raw is None]:
        raise MissingInputError(f"{folder} must hold {', '.join(missing)} (or .gz), but does not")
    return {name: raw for name, raw in found.items() if raw is not None}


def read_cache(folder: Path, source: Source, *, notice: Callable[[str], None]) -> dict[str, bytes]:
    """Reads files from a folder of our own; what is missing or damaged is downloaded into it.

    Args:
        folder: made where it does not exist.
        source: not asked where all files are whole.
        notice: told in one line that something is downloaded.

    Returns:
        File name -> unpacked bytes, verified.

    Raises:
        UnavailableError: where files are missing and no mirror gives them.
        DataError: for a damaged file that cannot be replaced, or wrong bytes from the mirrors.
        StoreError: for a folder or file that cannot be read or written.
    """
    damage: DataError | None = None
    try:
        return read_folder(folder, source.files)
    except MissingInputError:
        pass
    except DataError as error:
        damage = error
    try:
        _download(folder, source, notice)
    except (UnavailableError, StoreError) as error:
        if damage is not None:
            raise DataError(f"{damage}; it was not replaced, as {error}") from None
        raise
    return read_folder(folder, source.files)


def read_either(folder: Path, file: IdxFile) -> bytes | None:
    """The unpacked bytes of a file, from the unpacked or the packed form, whichever is whole.

    Returns:
        None where neither is there.
    """
    damage: DataError | None = None
    for path in (folder / file.name, folder / file.packed):
        if os.path.lexists(path):
            try:
                return read_file(path, file)
            except DataError as error:
                damage = damage or error
    if damage is not None:
        raise damage
    return None


def read_file(path: Path, file: IdxFile) -> bytes:
    """The unpacked bytes of a file, packed or not; never more than were published."""
    try:
        if not path.is_file():
            raise DataError(f"{path} is not a file")
        with path.open("rb") as stream:
            raw = stream.read(file.n_bytes + file.n_bytes // 8 + 4096)  # no form is longer
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    fault = "has other bytes than were published"
    if raw.startswith(_GZIP_MAGIC):
        try:
            raw = zlib.decompressobj(wbits=31).decompress(raw, file.n_bytes + 1)  # 31: gzip
        except zlib.error:
            fault = "is a damaged gzip file"
    found = hashlib.sha256(raw).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} {fault}: the sha256 of {file.name} must be {file.sha256}, but is {found}"
        )
    return raw


def parse_idx(raw: bytes, name: str) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes; it shares the memory of `raw`.

    Args:
        raw: unpacked bytes: 0, 0, 8, number of dimensions, each size as four bytes, then the
            elements in C order.

    Raises:
        DataError: for another magic number, no dimension, a cut header or another number of bytes.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 6]), "two labels")
        array([5, 6], dtype=uint8)
    """
    if raw[:3] != _UINT8_MAGIC or len(raw) < 4:
        raise DataError(f"{name} must begin with bytes 0, 0, 8, but begins with {list(raw[:3])}")
    start = 4 + 4 * raw[3]
    if raw[3] == 0 or len(raw) < start:
        raise DataError(f"{name} must name its {raw[3]} dimensions, but has {len(raw)} bytes")
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    n_bytes = start + math.prod(shape)
    if len(raw) != n_bytes:
        raise DataError(f"{name} of shape {shape} must have {n_bytes} bytes, but has {len(raw)}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def _download(folder: Path, source: Source, notice: Callable[[str], None]) -> None:
    """Downloads what is not whole into the folder; each is in its place once it is verified."""
    import pooch
    import requests

    def receive(url: str, path: str, _pooch: object) -> None:
        pooch.HTTPDownloader(
            timeout=source.silence_s,
            headers={"Accept-Encoding": "identity"},  # the file is packed already
            stream=False,  # else pooch leaves the connection open after an error
        )(url, path, None)
        if not Path(path).read_bytes().startswith(_GZIP_MAGIC):
            raise requests.RequestException("sent no gzip file, but perhaps a web page")

    pooch.get_logger().setLevel("WARNING")
    mirrors = _answering(source) if source.is_asked_first else source.mirrors
    notice(f"MNIST (11 MB) is downloaded into {folder}")
    for file in source.files:
        with suppress(DataError):
            if read_either(folder, file) is not None:
                continue
        failures: list[str] = []
        kind: type[DataError | UnavailableError] = UnavailableError
        for mirror in mirrors:
            registry = {file.packed: file.packed_sha256}
            store = pooch.create(folder, mirror, registry=registry, retry_if_failed=source.retries)
            try:
                store.fetch(file.packed, downloader=receive)
                break
            except requests.RequestException as error:
                failures.append(_failure(mirror, error))
            except ValueError:  # pooch's word for another SHA-256
                failures.append(f"{mirror}{file.packed} has other bytes than were published")
                kind = DataError
            except OSError as error:
                raise StoreError(
                    f"the cache folder {folder} cannot be written: {error.strerror or error} "
                    "(data.root=FOLDER reads the MNIST files from a folder, data=digits needs none)"
                ) from None
        else:
            raise kind(_unobtainable(failures))


def _answering(source: Source) -> list[str]:
    """The mirrors that answer in time.

    Each is asked in a thread of its own, since `requests` has no limit for the time in which a
    name is looked up and all its addresses are tried.
    """
    import pooch
    import requests

    answering: list[str] = []
    failures: list[str] = []

    def ask(mirror: str) -> None:
        try:
            url = f"{mirror}{source.files[0].packed}"
            if pooch.HTTPDownloader(timeout=source.silence_s)(url, "", None, check_only=True):
                answering.append(mirror)
            else:
                failures.append(f"{urlsplit(mirror).netloc} does not have the files")
        except requests.RequestException as error:
            failures.append(_failure(mirror, error))

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in source.mirrors]
    end = time.monotonic() + source.silence_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if not answering:
        silent = f"no mirror answered within {source.silence_s:g} seconds"
        raise UnavailableError(_unobtainable(failures or [silent]))
    return answering.copy()


def _failure(mirror: str, error: BaseException) -> str:
    """What lies at the bottom of a chain of errors, which the network libraries wrap deeply."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return f"{urlsplit(mirror).netloc} failed: {one_line(error)}"


def _unobtainable(failures: Sequence[str]) -> str:
    return (
        f"MNIST could not be downloaded: {'; '.join(failures) or 'no mirror is known'} "
        "(data.root=FOLDER, or MLP_DATA_ROOT in the environment, reads the files from a folder; "
        "data=digits needs none)"
    )

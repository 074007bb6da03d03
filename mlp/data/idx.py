"""MNIST's idx files: which bytes they must have, where they lie, and what is in them.

Nothing is written here, and no bytes pass whose SHA-256 is not the published one.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlp.errors import DataError, MissingInputError, StoreError


@dataclass(frozen=True)
class IdxFile:
    """A file by its published content.

    Attributes:
        name: of the unpacked file; packed it is called `name.gz`.
        n_bytes: of the unpacked file.
        sha256: of the unpacked bytes, 64 hex digits.
    """

    name: str
    n_bytes: int
    sha256: str

    @property
    def most_bytes(self) -> int:
        """No form of the file, packed or not, is longer."""
        return self.n_bytes + self.n_bytes // 8 + 4096


@dataclass(frozen=True)
class Content:
    """What the bytes of a file turned out to be.

    Attributes:
        raw: unpacked bytes.
        sha256: their digest; that of the packed bytes where they cannot be unpacked.
        fault: what is wrong with them, as the rest of a sentence; empty for the published bytes.
        is_partial: cut short, or no data at all: the file itself may be good elsewhere.
    """

    raw: bytes
    sha256: str
    fault: str = ""
    is_partial: bool = False


MNIST_FILES = (
    IdxFile(
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)

GZIP_MAGIC = b"\x1f\x8b"
_UINT8_MAGIC = b"\x00\x00\x08"  # the fourth byte is the number of dimensions


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
    paths = {file: find(folder, file) for file in files}
    missing = [file.name for file, path in paths.items() if path is None]
    if missing:
        raise MissingInputError(lack(folder, missing))
    contents = {}
    for file, path in paths.items():
        assert path is not None
        content = examine_file(path, file)
        if content.fault:
            raise DataError(f"{path} {damage(content, file)}")
        contents[file.name] = content.raw
    return contents


def lack(folder: Path, missing: Sequence[str]) -> str:
    """The sentence for a folder in which files are missing."""
    return f"{folder} must hold {', '.join(missing)} (or .gz), but does not"


def find(folder: Path, file: IdxFile) -> Path | None:
    """The path of the file in the folder, whatever lies there; unpacked before packed."""
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if os.path.lexists(path)), None)


def examine_file(path: Path, file: IdxFile) -> Content:
    """What lies at the path.

    Raises:
        StoreError: for a file that cannot be read.
    """
    try:
        if not path.is_file():
            return Content(b"", "none", "is not a file")
        with path.open("rb") as stream:
            return examine(stream.read(file.most_bytes + 1), file)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None


def examine(payload: bytes, file: IdxFile) -> Content:
    """Unpacks bytes, never beyond the published size, and compares their digest."""
    raw, fault, is_partial = payload, "", False
    if payload.startswith(GZIP_MAGIC):
        unpacker = zlib.decompressobj(wbits=31)  # 31: gzip, its CRC and length checked
        try:
            raw = unpacker.decompress(payload, file.n_bytes + 1)
            if not unpacker.eof and len(raw) <= file.n_bytes:
                fault, is_partial = "is a gzip file that was cut short", True
        except zlib.error:
            fault = "is a damaged gzip file"
    elif not payload:
        fault, is_partial = "is empty", True
    elif payload.lstrip()[:1] == b"<":
        fault, is_partial = "is a web page", True
    elif not payload.startswith(_UINT8_MAGIC):
        fault = "is neither an idx nor a gzip file"
    elif len(payload) < file.n_bytes:
        fault, is_partial = "was cut short", True
    sha256 = hashlib.sha256(raw).hexdigest()
    if not fault and sha256 != file.sha256:
        fault = "has other bytes than were published"
    return Content(raw, sha256, fault, is_partial)


def damage(content: Content, file: IdxFile) -> str:
    """The rest of a sentence about bytes that are not the published ones, with both digests."""
    return (
        f"{content.fault}: the sha256 of {file.name} must be {file.sha256}, but is {content.sha256}"
    )


def parse_idx(raw: bytes, name: str) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes; it shares the memory of `raw`.

    Args:
        raw: unpacked bytes: 0, 0, 8, number of dimensions, each size as four bytes, then the
            elements in C order.
        name: of the file, for the error.

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

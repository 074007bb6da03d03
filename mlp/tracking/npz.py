"""Arrays in one npz file: the same bytes for the same arrays, and a reader that trusts nothing.

`numpy.load` allocates what a file claims to hold. This reader knows from the caller which arrays
must be there, checks the zip directory and each array's header against that, and only then reads;
nothing is unpickled. Members are stored, not compressed: no two versions of zlib to agree on, and
no file that grows when it is opened.
"""

import hashlib
import io
import math
import struct
import tokenize
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mlp.errors import RecordError, one_line, shown

Array = NDArray[Any]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip file can name
_LARGEST_FILE = 1 << 30  # bytes; a config may claim any size
_FIRST_BYTES = b"PK\x03\x04"
_HEADER_ROOM = 1024  # bytes for the names, zip entries and npy header of one array

# A header is a Python literal. What else than our own could stand in it, from minus signs to
# escapes, is refused before NumPy parses it.
_HEADER_BYTES = frozenset(
    b"{'descr': '<|bfiu', 'fortran_order': False, 'shape': (0123456789,), }\n"
)
_BROKEN_FILE = (
    ValueError,
    zipfile.BadZipFile,
    NotImplementedError,  # a method or version that zipfile does not know
    RuntimeError,  # an encrypted member
    OverflowError,
    EOFError,
    struct.error,
    tokenize.TokenError,  # NumPy, for a header that is no literal
)


@dataclass(frozen=True)
class Expected:
    """What an array must be to be read.

    Attributes:
        dtype: exactly this one, little-endian.
        shape: exactly this one, unless `may_be_shorter`.
        may_be_shorter: whether the first axis may have fewer entries.
        is_optional: whether the array may be missing.
    """

    dtype: str
    shape: tuple[int, ...]
    may_be_shorter: bool = False
    is_optional: bool = False

    @property
    def largest_bytes(self) -> int:
        """Size of the largest array that is allowed."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of that shape is as expected."""
        if not self.may_be_shorter:
            return shape == self.shape
        return (
            len(shape) == len(self.shape)
            and shape[1:] == self.shape[1:]
            and shape[0] <= self.shape[0]
        )


def pack(arrays: Mapping[str, Array]) -> bytes:
    """An npz file of the arrays, in their order; `numpy.load` opens it too.

    Example:
        >>> ones = {"b": np.ones(2), "a": np.arange(3)}
        >>> pack(ones) == pack(ones)
        True
        >>> sorted(np.load(io.BytesIO(pack(ones))))
        ['a', 'b']
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, _portable(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.create_system = 3  # else the bytes would depend on the operating system
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
    return file.getvalue()


def read(path: Path, expected: Mapping[str, Expected]) -> dict[str, Array]:
    """Reads the expected arrays and nothing else.

    Raises:
        RecordError: for a file that is missing, too large, no npz, or holds other arrays than
            expected; names the file and the reason.
    """
    return unpack(read_bytes(path, largest_file(expected)), expected, source=path.name)


def largest_file(expected: Mapping[str, Expected]) -> int:
    """The most bytes that a file of these arrays can have."""
    arrays = sum(each.largest_bytes + _HEADER_ROOM for each in expected.values())
    return min(arrays + _HEADER_ROOM, _LARGEST_FILE)


def unpack(data: bytes, expected: Mapping[str, Expected], *, source: str) -> dict[str, Array]:
    """As `read`, from the bytes of a file that is called `source`."""
    try:
        if not data.startswith(_FIRST_BYTES):  # zipfile itself looks at the end alone
            raise ValueError("it must begin with a zip member")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked_members(archive, expected)
            return {name: _array(archive, members[name], expected[name]) for name in members}
    except _BROKEN_FILE as error:
        raise RecordError(f"{source} cannot be used: {one_line(error)}") from None


def digest(arrays: Iterable[Array]) -> str:
    """SHA-256 over the dtype, shape and bytes of each array in turn, 64 hex digits.

    Every NaN counts as the same one: its sign and payload say nothing about a training.

    Example:
        >>> digest([np.array([np.nan])]) == digest([np.array([-np.nan])])
        True
    """
    state = hashlib.sha256()
    for array in arrays:
        plain = _portable(array)
        if plain.dtype.kind == "f":
            plain = np.where(np.isnan(plain), plain.dtype.type(np.nan), plain)
        state.update(f"{plain.dtype.str}{list(plain.shape)}".encode())
        state.update(plain.tobytes())
    return state.hexdigest()


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a plain file that may not be larger than `most`.

    Raises:
        RecordError: for anything else.
    """
    if path.is_symlink() or not path.is_file():
        raise RecordError(f"{path.name} is missing or not a plain file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise RecordError(f"{path.name} must be at most {most} bytes long, but is longer")
    return data


def _portable(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _checked_members(
    archive: zipfile.ZipFile, expected: Mapping[str, Expected]
) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by the name of their array, checked by the zip directory alone."""
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    required = {name for name, each in expected.items() if not each.is_optional}
    if len(set(names)) != len(names) or not required <= set(names) <= set(expected):
        raise ValueError(f"it must hold {', '.join(expected)}, but holds {', '.join(names)}")
    members = dict(zip(names, archive.infolist(), strict=True))
    for name, info in members.items():
        if info.filename != f"{name}.npy" or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} must be a stored npy member")
        if not info.file_size == info.compress_size <= expected[name].largest_bytes + _HEADER_ROOM:
            raise ValueError(f"{name} must not claim {info.file_size} bytes")
    return {name: members[name] for name in expected if name in members}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Expected) -> Array:
    """One member, its header checked before its data is looked at."""
    data = io.BytesIO(archive.read(info))
    if npy.read_magic(data) != (1, 0):
        raise ValueError(f"{info.filename} must be an array in version 1.0 of the npy format")
    start, n_header = data.tell(), int.from_bytes(data.read(2), "little")
    if not _HEADER_BYTES.issuperset(data.read(n_header)):
        raise ValueError(f"{info.filename} must have a header such as NumPy writes")
    data.seek(start)
    shape, is_fortran, dtype = npy.read_array_header_1_0(data, max_header_size=_HEADER_ROOM)
    if dtype.str != expected.dtype or is_fortran or not expected.allows(shape):
        limit = "at most " if expected.may_be_shorter else ""
        raise ValueError(
            f"{info.filename} must be {expected.dtype} of shape {limit}{list(expected.shape)}, "
            f"but is {dtype.str} of shape {shown(list(shape))}"
        )
    values = data.read()
    if len(values) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{info.filename} must hold exactly the data of its shape {list(shape)}")
    return np.frombuffer(values, dtype).reshape(shape).copy()

"""What a tracking store that somebody else wrote to may hold, and a watch on what a reader does."""

import io
import json
import pickle
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlp.tracking import record


class Evil:
    """Unpickled, it would leave a file where everybody sees it."""

    def __reduce__(self):
        return (open, ("/tmp/mlp-was-unpickled", "w"))


Content = bytes | Callable[[], bytes]
"""What a file holds; a large one is made when it is used, not for whoever collects tests."""


def content(of: Content) -> bytes:
    return of() if callable(of) else of


def configs(good: str) -> dict[str, Content]:
    """Name -> a config.json that must be refused, made from a good one."""

    def changed(path: str, value: object) -> bytes:
        values = json.loads(good)
        *groups, last = path.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[last] = value
        return json.dumps(values).encode()

    plain = good.encode()
    lr = '"learning_rate":0.5'
    assert lr in good
    return {
        "empty object": b"{}",
        "no json": b"settings: {}",
        "yaml with a python tag": b"!!python/object/apply:os.system ['true']",
        "yaml with aliases": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
        "a pickle": pickle.dumps(Evil()),
        "a web page": b"<!DOCTYPE html><title>Sign in</title>",
        "null": b"null",
        "a number": b"1e400",
        "a list": b"[]",
        "cut short": plain[:-20],
        "followed by more": plain + b"{}",
        "twice": plain + plain,
        "byte order mark": b"\xef\xbb\xbf" + plain,
        "utf-16": good.encode("utf-16"),
        "latin-1": plain.replace(b"0.5", b"\xff"),
        "null bytes": plain + b"\0" * 16,
        "target": changed("_target_", "os.system"),
        "target in a group": changed("settings.model._target_", "subprocess.Popen"),
        "args": changed("settings.optimizer._args_", ["rm -rf"]),
        "partial": changed("settings.data._partial_", True),
        "dunder": changed("__class__", "x"),
        "secret from the environment": changed("settings.data.name", "${oc.env:HOME}"),
        "resolver": changed("settings.model.activation", "${oc.decode:[]}"),
        "interpolation in a list": changed("settings.model.widths", ["${x}", 3]),
        "interpolation in a key": changed("${oc:HOME}", 1),
        "template": changed("settings.data.name", "{{7*7}}"),
        "path as data": changed("settings.data.name", "../../etc/passwd"),
        "address as data": changed("settings.data.name", "http://127.0.0.1:9/"),
        "data folder": changed("settings.data.root", "/etc"),
        "tracking store": changed("settings.tracking", {"uri": "http://127.0.0.1:9"}),
        "execution": changed("settings.execution", {"threads": 1000}),
        "study": changed("settings.study", {"storage": "sqlite:////tmp/x.db"}),
        "look-alike key": changed("settings.m\u043edel", {}),
        "full-width key": changed("settings.\uff4dodel", {}),
        "key with an escape": changed("settings.\x1b[2Jmodel", {}),
        "key with a joiner": changed("settings.model\u200d", {}),
        "duplicate key": good.replace(lr, lr + "," + lr).encode(),
        "duplicate group": good.replace('"settings":', '"settings":{},"settings":').encode(),
        "nan": good.replace(lr, '"learning_rate":NaN').encode(),
        "infinity": good.replace(lr, '"learning_rate":-Infinity').encode(),
        "overflow": good.replace(lr, '"learning_rate":1e999').encode(),
        "negative rate": good.replace(lr, '"learning_rate":-1').encode(),
        "rate as text": good.replace(lr, '"learning_rate":"0.5"').encode(),
        "rate as true": good.replace(lr, '"learning_rate":true').encode(),
        "huge integer": good.replace(lr, '"learning_rate":' + "9" * 9000).encode(),
        "deep lists": b"[" * 100_000 + b"]" * 100_000,
        "deep mappings": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        "a hundred thousand keys": lambda: (
            b"{" + b",".join(b'"%d":0' % i for i in range(10**5)) + b"}"
        ),
        "many keys": json.dumps({f"k{i}": 0 for i in range(20_000)}).encode(),
        "many settings": changed("settings.model.widths", [1] * 60_000),
        "a large network": changed("settings.model.widths", 10**9),
        "a deep network": changed("settings.model.depth", 10**6),
        "endless training": changed("settings.training.steps", 10**18),
        "negative width": changed("settings.model.widths", -3),
        "nested widths": changed("settings.model.widths", [[3], [3]]),
        "group as text": changed("settings.model", "relu"),
        "missing group": changed("settings", {"model": {}}),
        "other version": changed("version", 99),
        "version as true": changed("version", True),
        "digest as a path": changed("data_digest", "../" * 20 + "etc/passwd"),
        "digest in capitals": changed("data_digest", "A" * 64),
        "unknown ending": changed("ended.ending", "__import__('os')"),
        "lone surrogate": changed("ended.ending", "\ud800"),
        "step beyond the end": changed("ended.last_step", 10**9),
        "negative step": changed("ended.last_step", -1),
        "step as a fraction": changed("ended.last_step", 1.5),
    }


def archives(good: dict[str, np.ndarray]) -> dict[str, Content]:
    """Name -> an npz file that must be refused, made from the arrays of a good one."""
    members = {f"{name}.npy": _member(array) for name, array in good.items()}
    first = next(iter(members))
    array = good[first.removesuffix(".npy")]
    whole = record.pack_arrays(good)

    def with_first(data: bytes) -> bytes:
        return _zipped({**members, first: data})

    return {
        "text": b"<html>" * 50,
        "a pickle": pickle.dumps(Evil()),
        "a bare array": members[first],
        "cut short": whole[:-30],
        "only the directory": whole[whole.index(b"PK\x01\x02") :],
        "cut in front": whole[40:],
        "junk in front": b"#!/bin/sh\n" + whole,
        "other bytes": whole[:200] + bytes(byte ^ 255 for byte in whole[200:230]) + whole[230:],
        "tar": b"ustar" * 200,
        "no member": _zipped({}),
        "a missing member": _zipped({name: members[name] for name in list(members)[1:]}),
        "one more member": _zipped({**members, "extra.npy": members[first]}),
        "a thousand more": lambda: _zipped({**members, **{f"x{i}.npy": b"" for i in range(1000)}}),
        "a name upwards": _zipped({**members, "../../evil.npy": members[first]}),
        "an absolute name": _zipped({**members, "/tmp/evil.npy": members[first]}),
        "only names upwards": _zipped({f"../{name}": data for name, data in members.items()}),
        "names with backslashes": _zipped({f"..\\{n}": data for n, data in members.items()}),
        "a folder": _zipped({**members, "folder/": b""}),
        "a symbolic link": _linked(members, first),
        "compressed": _zipped(members, zipfile.ZIP_DEFLATED),
        "a bomb": lambda: _zipped(
            {**members, first: members[first] + bytes(10**7)}, zipfile.ZIP_DEFLATED
        ),
        "a bomb of another kind": lambda: _zipped(
            {**members, first: bytes(10**7)}, zipfile.ZIP_LZMA
        ),
        "a member twice": _twice(members, first),
        "encrypted": _flagged(whole),
        "claims a size": _claiming_size(whole),
        "objects": with_first(_member(np.array([Evil()] * 3, dtype=object), allow_pickle=True)),
        "a pickle inside": with_first(pickle.dumps(Evil())),
        "8 TB": with_first(_claiming(f"({10**12},)", array.dtype.str)),
        "overflowing shape": with_first(_claiming(f"({2**62}, {2**62})", array.dtype.str)),
        "negative shape": with_first(_claiming("(-1,)", array.dtype.str)),
        "shape with code": with_first(_claiming("(__import__('os').system('true'),)", "<f8")),
        "dtype with code": with_first(_claiming("(3,)", "O8,(3,)i4")),
        "shape of Python 2": with_first(_claiming(f"({len(array)}L,)", array.dtype.str)),
        "shape with an escape": with_first(_claiming("('\\w',)", array.dtype.str)),
        "shape without an end": with_first(_claiming("((((0, ", array.dtype.str)),
        "shape too deep": with_first(_claiming("(" * 60 + ")" * 60, array.dtype.str)),
        "a huge number": with_first(_claiming("(" + "9" * 300 + ",)", array.dtype.str)),
        "two literals": with_first(_claiming("(0,)}{'a': 0", array.dtype.str)),
        "many zeros in front": with_first(_claiming("(00,)", array.dtype.str)),
        "another order": with_first(_claiming("(3,)", array.dtype.str).replace(b"False", b"True ")),
        "many dtypes": with_first(_claiming("(3,)", "f4,f4")),
        "no header": with_first(b"\x93NUMPY\x01\x00\xff\xff"),
        "another version": with_first(members[first].replace(b"NUMPY\x01", b"NUMPY\x03")),
        "other dtype": with_first(_member(array.astype(np.complex128))),
        "big endian": with_first(_member(array.astype(array.dtype.newbyteorder(">")))),
        "structured": with_first(
            _member(np.zeros(3, [("a", "<f4"), ("b", "O")]), allow_pickle=True)
        ),
        "texts": with_first(_member(np.array(["x" * 100] * 3))),
        "dates": with_first(_member(np.zeros(3, "datetime64[s]"))),
        "one more axis": with_first(_member(array[None])),
        "one entry more": with_first(_member(np.concatenate([array] * 2 + [array[:1]]))),
        "bytes left over": with_first(members[first] + b"\0"),
        "bytes that lack": with_first(members[first][:-1]),
    }


def _member(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def _claiming(shape: str, dtype: str) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _linked(members: dict[str, bytes], first: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo(first)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        for name in list(members)[1:]:
            archive.writestr(name, members[name])
    return file.getvalue()


def _twice(members: dict[str, bytes], first: str) -> bytes:
    other = "x" * len(first)
    return _zipped({**members, other: members[first]}).replace(other.encode(), first.encode())


def _flagged(whole: bytes) -> bytes:
    """With the bit set that says encrypted, in the directory and before each member."""
    data = bytearray(whole)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 1)
    return bytes(data)


def _claiming_size(whole: bytes) -> bytes:
    """A directory that says of a member that it is nearly 4 GB large."""
    at = whole.index(b"PK\x01\x02")
    return whole[: at + 20] + b"\xf0\xff\xff\xff" * 2 + whole[at + 28 :]


_BEYOND = (
    "socket.",
    "subprocess.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "shutil.unpack",
    "webbrowser.",
)
_TOUCHES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_watched: tuple[Path, list[str]] | None = None
_lock = threading.Lock()


def _note(event: str, args: tuple[object, ...]) -> None:
    """Python calls this on everything that a program asks of the system."""
    if _watched is None:
        return
    inside, seen = _watched
    if event.startswith(_BEYOND) or event == "exec":
        seen.append(f"{event} {args!r:.200}")
    elif event == "open":
        path, mode, flags = args
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if (writes or (isinstance(flags, int) and flags & 0b11)) and not _is_in(path, inside):
            seen.append(f"open {path!r} {mode}")
    elif event in _TOUCHES and not _is_in(_full(args), inside):
        seen.append(f"{event} {args!r:.200}")


def _full(args: tuple[object, ...]) -> object:
    """The path of an event, which may be in a folder that is given by its open descriptor."""
    path, folder = args[0], args[-1]
    if (
        isinstance(path, str)
        and not path.startswith("/")
        and isinstance(folder, int)
        and folder > 0
    ):
        return Path(f"/proc/self/fd/{folder}").readlink() / path
    return path


def _is_in(path: object, folder: Path) -> bool:
    return isinstance(path, int) or str(path).startswith((str(folder), "/dev/null"))


@contextmanager
def watched(folder: Path, *, sockets: bool = False) -> Iterator[list[str]]:
    """Notes whatever the block does outside a folder but read.

    Args:
        folder: in which files may be written.
        sockets: whether a server is talked to.
    """
    global _watched
    seen: list[str] = []
    with _lock:
        if not getattr(watched, "is_set", False):
            sys.addaudithook(_note)  # it can never be taken away, so it looks whether it is wanted
            watched.is_set = True
    _watched = (folder, seen)
    try:
        yield seen
    finally:
        _watched = None
        if sockets:
            seen[:] = [event for event in seen if not event.startswith("socket.")]

"""Finished runs on their way to the tracking store, one folder each.

A run is written here, whole, before it is stored anywhere else, and goes when it is uploaded. So a
killed sweep neither trains a finished trial again nor loses one that MLflow has not seen. Trials
and networks of further seeds lie in a folder of their study; runs that belong to none share one.
"""

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from mlp.addresses import sqlite_path
from mlp.config import canonical_json
from mlp.errors import StoreError
from mlp.tracking.batch import BATCH_FILE, Batch, write_batch
from mlp.tracking.listing import Label, StudyPage, listing_of, write_listing
from mlp.tracking.picture import run_picture
from mlp.tracking.record import PICTURE_FILE, RunRecord, read_json, read_text, write_record

UNFINISHED = ".part"  # ends the name of what is being written, or was when its writer died

_PAGE_FILE = "study.json"
_LARGEST_PAGE = 16 * 1024 * 1024  # bytes; a study may enqueue thousands of points
_PLACE = re.compile(r"(\d+)(?:\.seed(\d+))?")
_RUNS_OF_ONE = 1_000_000  # runs of one process in the folder of runs that belong to no study
_MS_TO_LOCK = 60_000  # from the making of a lock file to its being locked, at the very most
_FLUSHES = 16  # at once
_serial = itertools.count()
_owned: dict[Path, tuple[int, TextIO]] = {}  # folder -> this process's number there, and its lock


Kept = tuple[RunRecord, Label] | Batch
"""A run and how it is to be shown, or reruns that were trained together."""


def folder_of(storage: str) -> Path:
    """The spool of a study store: beside an SQLite file, else in the working directory."""
    path = sqlite_path(storage)
    return path.with_name(path.name + ".spool") if path else Path.cwd() / "optuna.spool"


def folder_of_runs() -> Path:
    """The spool of runs that belong to no study."""
    return Path.cwd() / "runs.spool"


def place_of(folder: Path, number: int, seed: int = 0) -> Path:
    """The folder of a trial, or of a network with its settings and a further seed."""
    return folder / (f"{number:06d}.seed{seed}" if seed else f"{number:06d}")


def new_place() -> Path:
    """A new folder for a run that belongs to no study; others see that this process has it."""
    return place_of(folder_of_runs(), _owner() * _RUNS_OF_ONE + next(_serial))


def left_behind() -> list[Path]:
    """Runs that belong to no study, but for those that another process is still uploading."""
    folder = folder_of_runs()
    waiting = waiting_in(folder).items()
    return [place for (n, _), place in waiting if not _is_held(folder, n // _RUNS_OF_ONE)]


def put_single(kept: Kept) -> Path:
    """As `put`, for what belongs to no study; where nothing can be written here, elsewhere."""
    try:
        place = new_place()
        put({place: kept})
    except StoreError:  # a working directory that is full or read-only loses no run
        place = place_of(Path(tempfile.mkdtemp(prefix="mlp-runs-")), 0)
        put({place: kept})
    return place


def put(runs: Mapping[Path, Kept]) -> None:
    """Writes what is finished, so that each is there whole or not at all.

    Args:
        runs: place -> what to keep there; all in one folder, which is made if it does not exist.
    """
    parts = {place: place.with_name(place.name + UNFINISHED) for place in runs}
    try:
        for place, part in parts.items():
            shutil.rmtree(part, ignore_errors=True)
            _make(part)
            _write(part, runs[place])
        _flush_all([file for part in parts.values() for file in (*part.iterdir(), part)])
        for place, part in parts.items():
            shutil.rmtree(place, ignore_errors=True)  # an older one that could not be read
            part.rename(place)
        for folder in {place.parent for place in runs}:
            _flush(folder)
    except OSError as error:
        where = next(iter(runs)).parent
        raise StoreError(f"cannot write to {where}: {error.strerror or error}") from None


def _write(folder: Path, kept: Kept) -> None:
    if isinstance(kept, Batch):
        (folder / BATCH_FILE).write_text(write_batch(kept), encoding="utf-8")
        return
    record, label = kept
    write_record(folder, record)
    drawn = run_picture(record.config, record.result, record.judgement)
    (folder / PICTURE_FILE).write_text(drawn, encoding="utf-8")
    write_listing(folder, listing_of(record, label))


def put_page(folder: Path, page: StudyPage) -> None:
    """Writes whose runs wait in a folder, for who uploads them without the sweep."""
    part = folder / (_PAGE_FILE + UNFINISHED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(canonical_json(dataclasses.asdict(page)), encoding="utf-8")
        part.rename(folder / _PAGE_FILE)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from None


def page_of(folder: Path) -> StudyPage:
    """Whose runs wait in a folder."""
    text = read_text(folder / _PAGE_FILE, _LARGEST_PAGE)
    return read_json(text, TypeAdapter(StudyPage), source=_PAGE_FILE)


def has_page(folder: Path) -> bool:
    """Whether a folder says whose runs wait in it."""
    return (folder / _PAGE_FILE).is_file()


def waiting_in(folder: Path) -> dict[tuple[int, int], Path]:
    """What waits in a folder to be uploaded, in the order of the numbers.

    Returns:
        Number of the trial (of a run that belongs to no study, when it was kept) and which further
        seed of it, 0 for the trial itself -> folder of the run.
    """
    found = {
        (int(name[1]), int(name[2] or 0)): place
        for place in folder.glob("[0-9]*")
        if (name := _PLACE.fullmatch(place.name)) and place.is_dir()
    }
    return dict(sorted(found.items()))


def drop(place: Path) -> None:
    """Removes a run that is uploaded; half removed, it is no run any more."""
    gone = place.with_name(place.name + UNFINISHED)
    try:
        shutil.rmtree(gone, ignore_errors=True)
        place.rename(gone)
    except OSError:  # it is not there
        return
    shutil.rmtree(gone, ignore_errors=True)


def unfinished(folder: Path) -> list[Path]:
    """What writers that died have left in a folder."""
    return sorted(folder.glob(f"*{UNFINISHED}"))


def clear(folder: Path) -> None:
    """Removes a folder in which nothing waits, and the spool with the last one.

    Only who holds the study may do so.
    """
    if waiting_in(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.suffix == ".spool":
        with contextlib.suppress(OSError):  # others are still waiting there
            folder.parent.rmdir()


def leave(folder: Path) -> None:
    """This process uploads nothing more from the folder of runs; it goes if nothing is in it.

    What a process that was killed has left half written there goes, too.
    """
    if folder in _owned:
        own, file = _owned.pop(folder)
        (folder / f"{own}.lock").unlink(missing_ok=True)
        file.close()
    for part in folder.glob(f"[0-9]*{UNFINISHED}"):
        if not _is_held(folder, int(part.name.removesuffix(UNFINISHED)) // _RUNS_OF_ONE):
            shutil.rmtree(part, ignore_errors=True)
    for lock in folder.glob("[0-9]*.lock"):  # of processes that were killed
        owner = int(lock.stem)
        had_time_to_lock = time.time_ns() // _RUNS_OF_ONE - owner > _MS_TO_LOCK
        if had_time_to_lock and not _is_held(folder, owner):
            lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _owner() -> int:
    """This process's number in the folder of runs, from its first run there on."""
    folder = folder_of_runs()
    if folder not in _owned:
        number = time.time_ns() // _RUNS_OF_ONE
        try:
            _make(folder)
            while (file := _locked(folder / f"{number}.lock")) is None:
                number += 1
        except OSError as error:
            raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from None
        _owned[folder] = number, file
    return _owned[folder][0]


def _is_held(folder: Path, owner: int) -> bool:
    """Whether another process that lives has runs of that number."""
    if folder in _owned and _owned[folder][0] == owner:
        return False
    lock = folder / f"{owner}.lock"
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


def _locked(path: Path) -> TextIO | None:
    """The file, locked until it is closed; None where another process has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _make(folder: Path) -> None:
    """Makes a folder, even where another process removes the empty one above it meanwhile."""
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def _flush_all(paths: Sequence[Path]) -> None:
    """As `_flush`; side by side, since a disk writes many in the time of one."""
    try:
        list(_flushing(os.getpid()).map(_flush, paths))
    except RuntimeError:  # the machine gives no more threads
        for path in paths:
            _flush(path)


@functools.cache
def _flushing(process: int) -> ThreadPoolExecutor:
    """The threads that do it, kept: to start them takes longer; a fork does not have them."""
    del process
    return ThreadPoolExecutor(_FLUSHES, "flush")


def _flush(path: Path) -> None:
    """Makes sure that a file or folder is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Finished trials on their way to the tracking store, one folder each.

A trial is written here, whole, before it is stored anywhere else, and goes when it is published. So
a killed sweep neither trains a finished trial again nor loses one that MLflow has not seen.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlp.errors import StoreError
from mlp.tracking.record import RunRecord, read_record, write_record
from mlp.tracking.store_uri import sqlite_path

_UNFINISHED = ".part"


def folder_of(storage: str) -> Path:
    """The spool of a study store: beside an SQLite file, else in the working directory."""
    path = sqlite_path(storage)
    return path.with_name(path.name + ".spool") if path else Path.cwd() / "optuna.spool"


def place_of(spool: Path, number: int) -> Path:
    """The folder of a trial."""
    return spool / f"{number:06d}"


def put(spool: Path, number: int, record: RunRecord) -> Path:
    """Writes a finished trial, so that it is there whole or not at all.

    Args:
        spool: the folder of the study; made if it does not exist.
        number: of the trial.
        record: what to keep.

    Returns:
        The folder of the trial.

    Raises:
        StoreError: where it cannot be written.
    """
    place = place_of(spool, number)
    unfinished = place.with_suffix(_UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_record(unfinished, record)
        for file in (*unfinished.iterdir(), unfinished):
            _flush(file)
        shutil.rmtree(place, ignore_errors=True)  # an older one that could not be read
        unfinished.rename(place)
        _flush(spool)
    except OSError as error:
        raise StoreError(f"cannot write to {spool}: {error.strerror or error}") from None
    return place


def waiting(spool: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of each trial in the spool, in the order of the numbers."""
    for place in sorted(spool.glob("[0-9]*")):
        if place.is_dir() and place.name.isdigit():
            yield int(place.name), place


def take(place: Path) -> RunRecord:
    """Reads a trial back.

    Raises:
        RecordError: for a folder that does not hold what was written.
    """
    return read_record(place)


def drop(place: Path) -> None:
    """Removes a trial that is published, and the study's folder with the last one."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in (place.parent, place.parent.parent):
        try:
            folder.rmdir()
        except OSError:  # others are still waiting there
            return


def _flush(path: Path) -> None:
    """Makes sure that a file or folder is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

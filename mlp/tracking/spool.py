"""Finished runs on their way to the tracking store, one folder each.

A trial is written here, whole, before it is stored anywhere else, and goes when it is published. So
a killed sweep neither trains a finished trial again nor loses one that MLflow has not seen. Single
runs come here only where the tracking store did not take them.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mlp.addresses import sqlite_path
from mlp.config import canonical_json
from mlp.errors import RecordError, StoreError, one_line
from mlp.tracking import record
from mlp.tracking.record import RunRecord, parse_json, read_record, write_record
from mlp.tracking.view import StudyView

KEY, STUDY, TRIAL = "mlp.key", "mlp.study", "mlp.trial"
CONFIRMS = "mlp.confirms"  # of a network with the settings of that trial, which is no trial itself
EXPLAINS = "mlp.explains"  # of a rerun that explains that study or run

_LARGEST_FILE = 16 * 1024 * 1024  # bytes; a study may enqueue thousands of points
_PLAIN_KEY = re.compile(r"[\w./-]{1,250}")  # it is quoted in a filter
_CLOSED = ConfigDict(extra="forbid")
_T = TypeVar("_T")

MOST_SEEDS = 1000  # where networks of further seeds wait: the trial's number times this, and which
UNFINISHED = ".part"  # ends the name of what is being written, or was when its writer died

_SEEDS = "+seeds"  # no study can be called so
_LABEL_FILE, _PAGE_FILE = "label.json", "study.json"


@checked_dataclass(frozen=True, config=_CLOSED)
class Label:
    """How one run is shown and found again.

    Attributes:
        name: what a person sees in lists.
        tags: further tags; `mlp.key`, if there, is what the run is found again by.
    """

    name: str
    tags: dict[str, str]


@checked_dataclass(frozen=True, config=_CLOSED)
class StudyPage:
    """What the parent run of a study says from the start.

    Attributes:
        name: of the study.
        key: what the study's runs are found again by.
        config: its composed settings, plain values.
        description: Markdown for its page.
        searched: path of each setting that varies -> what it is drawn from.
        view: columns and charts that show the study's runs; None: MLflow's own.
    """

    name: str
    key: str
    config: dict[str, Any]
    description: str
    searched: dict[str, Any] = field(default_factory=dict)
    view: StudyView | None = None


def label_of_trial(page: StudyPage, number: int, name: str) -> Label:
    """The label of a study's trial.

    Example:
        >>> label_of_trial(StudyPage("a", "a", {}, ""), 3, "#3").tags
        {'mlp.study': 'a', 'mlp.trial': '3', 'mlp.key': 'a/3'}
    """
    key = trial_key(page.key, str(number))
    return Label(name, {STUDY: page.name, TRIAL: str(number), KEY: key})


def label_of_seed(page: StudyPage, number: int, seed: int, name: str) -> Label:
    """The label of a network with a trial's settings and its so many-th further seed."""
    key = trial_key(page.key, f"{number}.seed{seed}")
    return Label(name, {STUDY: page.name, CONFIRMS: str(number), KEY: key})


def trial_key(study_key: str, number: str) -> str:
    """What the run of a study's trial is found again by."""
    return checked_key(f"{study_key}/{number}")


def study_key(key: str) -> str:
    """What the parent run of a study is found again by."""
    return checked_key(f"{key}/study")


def checked_key(key: str) -> str:
    """The key, if it can be quoted in a filter."""
    if not _PLAIN_KEY.fullmatch(key):
        raise ValueError(
            f"a key must be made of letters, digits, '_', '.', '-', '/', but is {key!r}"
        )
    return key


def write_label(file: Path, label: Label | StudyPage) -> None:
    """Writes a label or the page of a study as JSON."""
    adapter = _labels if isinstance(label, Label) else _pages
    values: Mapping[str, Any] = adapter.dump_python(label)  # type: ignore[arg-type]
    file.write_text(canonical_json(values), encoding="utf-8")


def read_label(file: Path) -> Label:
    """Reads a label back.

    Raises:
        RecordError: for a file that is missing or is no label.
    """
    return _read(file, _labels)


def read_page(file: Path) -> StudyPage:
    """Reads the page of a study back.

    Raises:
        RecordError: for a file that is missing or is no page.
    """
    return _read(file, _pages)


def _read(file: Path, adapter: TypeAdapter[_T]) -> _T:
    try:
        text = record.read_bytes(file, _LARGEST_FILE).decode()
        return adapter.validate_python(parse_json(text, source=file.name))
    except (UnicodeDecodeError, ValidationError) as error:
        raise RecordError(f"{file.name} cannot be used: {one_line(error)}") from None


_labels = TypeAdapter(Label)
_pages = TypeAdapter(StudyPage)


@dataclass(frozen=True, eq=False)
class Kept:
    """A run in the spool: its record and how it is to be shown."""

    record: RunRecord
    label: Label


def folder_of(storage: str) -> Path:
    """The spool of a study store: beside an SQLite file, else in the working directory."""
    path = sqlite_path(storage)
    return path.with_name(path.name + ".spool") if path else Path.cwd() / "optuna.spool"


def folder_of_runs() -> Path:
    """The spool of runs that belong to no study."""
    return Path.cwd() / "runs.spool"


def place_of(spool: Path, number: int) -> Path:
    """The folder of a trial."""
    return spool / f"{number:06d}"


def _unfinished_of(spool: Path, number: int) -> Path:
    return place_of(spool, number).with_suffix(UNFINISHED)


def of_seeds(folder: Path) -> Path:
    """The folder of networks with a winner's settings and further seeds, beside that of trials."""
    return folder.with_name(folder.name + _SEEDS)


def is_of_seeds(folder: Path) -> bool:
    """Whether it is the folder of such networks."""
    return folder.name.endswith(_SEEDS)


def study_of(folder: Path) -> str:
    """The study that a folder belongs to."""
    return folder.name.removesuffix(_SEEDS)


def put(spool: Path, runs: Mapping[int, Kept]) -> None:
    """Writes finished trials, so that each is there whole or not at all.

    Several at once cost little more than one: the first flush waits for the disk, and by then the
    others are mostly on it.

    Args:
        spool: the folder of the study; made if it does not exist.
        runs: number of the trial -> what to keep.

    Raises:
        StoreError: where they cannot be written.
    """
    try:
        for number, run in runs.items():
            unfinished = _unfinished_of(spool, number)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write_record(unfinished, run.record)
            write_label(unfinished / _LABEL_FILE, run.label)
        for number in runs:
            unfinished = _unfinished_of(spool, number)
            for file in (*unfinished.iterdir(), unfinished):
                _flush(file)
        for number in runs:
            place = place_of(spool, number)
            shutil.rmtree(place, ignore_errors=True)  # an older one that could not be read
            _unfinished_of(spool, number).rename(place)
        _flush(spool)
    except OSError as error:
        raise StoreError(f"cannot write to {spool}: {error.strerror or error}") from None


def put_single(record: RunRecord, label: Label) -> Path:
    """Writes a run that belongs to no study; as `put`."""
    number = time.time_ns()
    put(folder_of_runs(), {number: Kept(record, label)})
    return place_of(folder_of_runs(), number)


def put_page(spool: Path, page: StudyPage) -> None:
    """Writes whose trials wait in a folder, for who publishes them without the sweep.

    Raises:
        StoreError: where it cannot be written.
    """
    unfinished = spool / (_PAGE_FILE + UNFINISHED)
    try:
        spool.mkdir(parents=True, exist_ok=True)
        write_label(unfinished, page)
        unfinished.rename(spool / _PAGE_FILE)
    except OSError as error:
        raise StoreError(f"cannot write to {spool}: {error.strerror or error}") from None


def page_of(spool: Path) -> StudyPage:
    """Whose trials wait in a folder.

    Raises:
        RecordError: if it does not say.
    """
    return read_page(spool / _PAGE_FILE)


def has_page(spool: Path) -> bool:
    """Whether a folder says whose trials wait in it."""
    return (spool / _PAGE_FILE).is_file()


def waiting(spool: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of each trial in the spool, in the order of the numbers."""
    named = [place for place in spool.glob("[0-9]*") if place.name.isdigit()]
    for place in sorted(named, key=lambda place: int(place.name)):
        if place.is_dir():
            yield int(place.name), place


def take(place: Path) -> Kept:
    """Reads a trial back.

    Raises:
        RecordError: for a folder that does not hold what was written.
    """
    return Kept(read_record(place), read_label(place / _LABEL_FILE))


def drop(place: Path) -> None:
    """Removes a trial that is published; half removed, it is no trial any more."""
    gone = place.with_suffix(UNFINISHED)
    try:
        shutil.rmtree(gone, ignore_errors=True)
        place.rename(gone)
    except OSError:  # it is not there
        return
    shutil.rmtree(gone, ignore_errors=True)


def unfinished(spool: Path) -> list[Path]:
    """What writers that died have left in a folder."""
    return sorted(spool.glob(f"*{UNFINISHED}"))


def clear(spool: Path) -> None:
    """Removes a folder in which nothing waits, and the spool with the last one.

    Only who holds the study may do so.
    """
    if next(waiting(spool), None) is not None:
        return
    shutil.rmtree(spool, ignore_errors=True)
    if spool.parent.suffix == ".spool":
        with contextlib.suppress(OSError):  # others are still waiting there
            spool.parent.rmdir()


def _flush(path: Path) -> None:
    """Makes sure that a file or folder is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What a run is called in MLflow and found again by; written beside what waits to be published."""

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mlp.canonical import canonical_json
from mlp.errors import RecordError, one_line
from mlp.tracking import npz
from mlp.tracking.recipe import parse_json
from mlp.tracking.view import StudyView

KEY, STUDY, TRIAL = "mlp.key", "mlp.study", "mlp.trial"
CONFIRMS = "mlp.confirms"  # of a network with the settings of that trial, which is no trial itself
EXPLAINS = "mlp.explains"  # of a rerun that explains that study or run

_LARGEST_FILE = 16 * 1024 * 1024  # bytes; a study may enqueue thousands of points
_PLAIN_KEY = re.compile(r"[\w./-]{1,250}")  # it is quoted in a filter
_CLOSED = ConfigDict(extra="forbid")
_T = TypeVar("_T")


@dataclass(frozen=True, config=_CLOSED)
class Label:
    """How one run is shown and found again.

    Attributes:
        name: what a person sees in lists.
        tags: further tags; `mlp.key`, if there, is what the run is found again by.
    """

    name: str
    tags: dict[str, str]


@dataclass(frozen=True, config=_CLOSED)
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
        text = npz.read_bytes(file, _LARGEST_FILE).decode()
        return adapter.validate_python(parse_json(text, source=file.name))
    except (UnicodeDecodeError, ValidationError) as error:
        raise RecordError(f"{file.name} cannot be used: {one_line(error)}") from None


_labels = TypeAdapter(Label)
_pages = TypeAdapter(StudyPage)

"""`python -m mlp.judge`: what any loss curve did, from a file, standard input or MLflow.

Starts in a fraction of a second: MLflow is imported only for a run or an experiment of it.
"""

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mlp.curve import Judgement, Verdict, judge_curve
from mlp.errors import (
    DataError,
    MissingInputError,
    MlpError,
    SettingError,
    did_you_mean,
    one_line,
    shown,
)
from mlp.tracking.picture import plot_curve

_USAGE = """\
usage: python -m mlp.judge WHAT ... [option=value ...] [--json]

Says what a loss curve did: its verdict, a sentence, the numbers, and a plot.

WHAT is
  a file      .csv, .tsv (also exports of Weights & Biases), .npy, .npz, TensorBoard's events, or
              text: numbers, or lines with `loss ... 0.4547` as programs print them
  a folder    every such file in it
  -           standard input, as text
  a run or an experiment of MLflow, by id or name

options:
  column=NAME        which column, array, metric or tag; without it the one that is called loss
  x=NAME             the column with the steps; without it step, _step, epoch or iteration
  classes=10         of a classifier: so the loss of knowing nothing is known
  loss=mse           cross_entropy or mse
  batch_size=32      each value is a mean over so many examples; all: over all of them
  fail_on=VERDICTS   exit code 1 if one of these comes out, such as oscillating,diverged
  uri=ADDRESS        MLflow's store; without it MLFLOW_TRACKING_URI, else ./mlflow.db
  --json             one JSON object a curve

examples:
  python -m mlp.judge run.csv classes=10
  python train.py | python -m mlp.judge - fail_on=oscillating,diverged"""

_KINDS = {
    "cross_entropy": "cross_entropy",
    "ce": "cross_entropy",
    "nll": "cross_entropy",
    "mse": "squared_error",
    "squared_error": "squared_error",
}
_OPTIONS = ("column", "x", "classes", "loss", "batch_size", "fail_on", "uri")
_SUFFIXES = (".csv", ".tsv", ".npy", ".npz", ".txt", ".log")
_STEPS = ("step", "_step", "global_step", "trainer/global_step", "epoch", "iteration", "loss_step")
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_NO_EVENTS = "it is no event file"
_LARGEST = 1.7e308  # MLflow writes so many for an infinity


@dataclass(frozen=True, eq=False)
class LossSeries:
    """A loss curve as it was found.

    Attributes:
        steps: `(entry,)`, and `times`; None where they are not known.
        judgement: where it is known already, as of a run of this package.
    """

    name: str
    loss: ArrayLike
    steps: ArrayLike | None = None
    times: ArrayLike | None = None
    judgement: Judgement | None = None


@dataclass(frozen=True)
class _Asked:
    """What was typed; `known` are arguments of `judge_curve`."""

    sources: tuple[str, ...]
    column: str | None = None
    x: str | None = None
    uri: str | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    fail_on: frozenset[Verdict] = frozenset()
    is_json: bool = False


def main() -> None:
    """The command."""
    from mlp.terminal.console import run_command

    run_command(_judge)


def _judge() -> None:
    typed = sys.argv[1:]
    if not typed or {"--help", "-h"} & set(typed):
        print(_USAGE)
        sys.exit(0 if typed else 2)
    asked = _read_asked(typed)
    failed = False
    for series in _all_series(asked):
        judgement = series.judgement or _judged(series, asked)
        failed |= judgement.verdict in asked.fail_on
        print(_as_json(series, judgement) if asked.is_json else _as_text(series, judgement))
    sys.stdout.flush()
    if failed:
        sys.exit(1)


def _read_asked(typed: Sequence[str]) -> _Asked:
    sources: list[str] = []
    options: dict[str, str] = {}
    for word in typed:
        name, is_option, value = word.partition("=")
        if word == "--json":
            continue
        if word.startswith("--"):
            raise SettingError(f"unknown option {shown(word)}; --help lists the options")
        if not is_option or Path(word).exists():
            sources.append(word)
        elif name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS, "--help lists the options")
            raise SettingError(f"unknown option {shown(name)}{hint}")
        else:
            options[name] = value
    if not sources:
        raise SettingError("nothing to judge was named; a file, a folder, - or a run of MLflow")
    return _Asked(
        tuple(sources),
        options.get("column"),
        options.get("x"),
        options.get("uri"),
        _known(options),
        frozenset(_verdict(name) for name in options.get("fail_on", "").split(",") if name),
        "--json" in typed,
    )


def _known(options: Mapping[str, str]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if "classes" in options:
        known["classes"] = _count("classes", options["classes"], least=2)
    if "loss" in options:
        word = options["loss"]
        if word not in _KINDS:
            raise SettingError(f"loss must be cross_entropy or mse, but is {shown(word)}")
        known["kind"] = _KINDS[word]
    if options.get("batch_size") == "all":
        known["noise"] = 0.0
    elif "batch_size" in options:
        known["batch_size"] = _count("batch_size", options["batch_size"], least=1)
    return known


def _count(name: str, text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name} must be an integer of at least {least}, but is {shown(text)}")
    return int(text)


def _verdict(name: str) -> Verdict:
    if name not in set(Verdict):
        words = ", ".join(verdict.value for verdict in Verdict)
        raise SettingError(f"fail_on must name verdicts ({words}), but is {shown(name)}")
    return Verdict(name)


def _judged(series: LossSeries, asked: _Asked) -> Judgement:
    try:
        return judge_curve(series.loss, steps=series.steps, times=series.times, **asked.known)
    except ValueError as error:
        raise DataError(f"{series.name}: {one_line(error)}") from None


def _as_json(series: LossSeries, judgement: Judgement) -> str:
    numbers = dataclasses.asdict(judgement)
    numbers["swung"] = None if judgement.swung is None else judgement.swung._asdict()
    return json.dumps({"curve": series.name, "sentence": judgement.sentence, **numbers})


def _as_text(series: LossSeries, judgement: Judgement) -> str:
    period = judgement.period_steps
    numbers = {
        "ends at": f"{judgement.tail_loss:.4g}",
        "swings by": f"{100 * judgement.amplitude:.0f} %" if judgement.amplitude else "",
        "period": f"{period} steps" if period else "",
        "values": "" if judgement.n_entries is None else f"{judgement.n_entries}",
    }
    line = " · ".join(f"{name} {value}" for name, value in numbers.items() if value)
    said = [f"{series.name}: {judgement.verdict.value}", f"  {judgement.sentence}", f"  {line}"]
    return "\n".join(
        [*said, *(f"  {row}" for row in plot_curve(series.loss, verdict=judgement.verdict))]
    )


def _all_series(asked: _Asked) -> Iterator[LossSeries]:
    for source in asked.sources:
        path = Path(source)
        if source == "-":
            yield from _from_text("-", sys.stdin.read(), asked)
        elif path.is_dir():
            yield from _from_folder(path, asked)
        elif path.exists():
            yield from _from_files([path], asked)
        elif path.suffix.lower() in _SUFFIXES:
            raise MissingInputError(f"there is no file {source}")
        else:
            yield from _from_mlflow(source, asked)


def _from_folder(folder: Path, asked: _Asked) -> Iterator[LossSeries]:
    """Every curve in it; a file without one is passed over, and that is said."""
    n_found = 0
    runs: dict[Path, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if _is_curve_file(path)):
        runs.setdefault(path.parent if _is_of_events(path) else path, []).append(path)
    for paths in runs.values():
        try:
            found = list(_from_files(paths, asked))
        except MlpError as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        n_found += len(found)
        yield from found
    if not n_found:
        raise MissingInputError(f"there is no loss curve in {folder}")


def _is_curve_file(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in _SUFFIXES or _is_of_events(path))


def _is_of_events(path: Path) -> bool:
    return "tfevents" in path.name


def _from_files(paths: Sequence[Path], asked: _Asked) -> Iterator[LossSeries]:
    """The curves of one file, or of several event files of TensorBoard."""
    path = paths[0]
    name, suffix = str(path), path.suffix.lower()
    try:
        if _is_of_events(path):
            yield from _from_events(paths, asked)
        elif suffix in (".npy", ".npz"):
            yield from _from_arrays(path, asked)
        elif suffix in (".csv", ".tsv"):
            yield from _from_table(name, path.read_text(encoding="utf-8-sig"), suffix, asked)
        else:
            yield from _from_text(name, path.read_text(encoding="utf-8-sig"), asked)
    except UnicodeDecodeError:
        raise DataError(f"{name} must be a text, .csv, .npy or .npz, but is none") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from None


def _from_arrays(path: Path, asked: _Asked) -> Iterator[LossSeries]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        yield LossSeries(str(path), np.asarray(loaded, dtype=np.float64))
        return
    with loaded:
        names = list(loaded.files)
        column = _column(str(path), names, asked.column)[0]
        loss = np.asarray(loaded[column], dtype=np.float64)
        x = _x_column(str(path), names, asked.x)
        steps = None if x is None else loaded[x]
        if steps is not None and steps.shape != loss.shape and asked.x is None:
            steps = None  # of another array of the file
        yield LossSeries(str(path), loss, steps)


def _from_table(name: str, text: str, suffix: str, asked: _Asked) -> Iterator[LossSeries]:
    """Each curve of a table; in one of Weights & Biases there is one for each run."""
    separator = "\t" if suffix == ".tsv" else ";" if text.partition("\n")[0].count(";") else ","
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    if not rows:
        raise DataError(f"{name} is empty")
    if len(rows[0]) == 1 and _number(rows[0][0]) is not None:  # no header
        yield from _from_text(name, text, asked)
        return
    header = [title.strip() for title in rows[0]]
    columns = _column(name, header, asked.column)
    x = _x_column(name, header, asked.x)
    for column in columns:
        place, at = header.index(column), None if x is None else header.index(x)
        pairs = [
            (_number(row[place]), 0.0 if at is None else _number(row[at]))
            for row in rows[1:]
            if len(row) > max(place, at or 0)
        ]
        kept = [(loss, step) for loss, step in pairs if loss is not None and step is not None]
        if not kept:
            raise DataError(f"{name} has no numbers in its column {column}")
        losses, steps = zip(*kept, strict=True)
        title = name if len(columns) == 1 else f"{name} {column}"
        yield LossSeries(title, losses, None if at is None else steps)


def _from_text(name: str, text: str, asked: _Asked) -> Iterator[LossSeries]:
    """Numbers alone, or what stands behind the word in each line that has it."""
    words = text.replace(",", " ").split()
    numbers = [_number(word) for word in words]
    if words and None not in numbers and asked.column is None:
        yield LossSeries(name, [number for number in numbers if number is not None])
        return
    word = asked.column or "loss"
    behind = re.compile(rf"{re.escape(word)}\b[^\d\n+-]*?({_NUMBER})(?![\w.])", re.IGNORECASE)
    before = re.compile(r"\b(?:step|iter(?:ation)?|epoch|batch)\b\D{0,3}(\d+)", re.IGNORECASE)
    found = [(behind.search(line), before.search(line)) for line in text.splitlines()]
    kept = [(float(loss[1]), step) for loss, step in found if loss is not None]
    if not kept:
        raise DataError(f"{name} has no number behind the word {shown(word)}; column=NAME names it")
    steps = [int(step[1]) for _, step in kept if step is not None]
    is_order = len(steps) == len(kept) and all(a < b for a, b in pairwise(steps))
    yield LossSeries(name, [loss for loss, _ in kept], steps if is_order else None)


def _from_events(paths: Sequence[Path], asked: _Asked) -> Iterator[LossSeries]:
    """The curves of TensorBoard's event files of one folder, the older file first.

    A file that goes on where one before it ended, or at a checkpoint of it, is of the same run.
    """
    curves: dict[str, list[tuple[str, list[_Point]]]] = {}
    for path in paths:
        try:
            found = _scalars(path.read_bytes())
            columns = _column(str(path), list(found), asked.column)
        except (ValueError, MlpError) as error:
            if len(paths) == 1:
                raise
            print(f"passed over: {path}: {one_line(error)}", file=sys.stderr)
            continue
        for column in columns:
            points, known = found[column], curves.setdefault(column, [])
            if not known or points[0].step <= known[-1][1][0].step:
                known.append((str(path), points))
                continue
            name, earlier = known[-1]
            kept = [point for point in earlier if point.step < points[0].step]
            if len(kept) < len(earlier):
                said = f"{len(earlier) - len(kept)} entries of {name} give way to those of {path}"
                print(f"{said}, from step {points[0].step} on", file=sys.stderr)
            known[-1] = name, kept + points
    for column, of_column in curves.items():
        for name, points in of_column:
            title = name if len(curves) == 1 else f"{name} {column}"
            losses, steps, times = zip(*points, strict=True)
            yield LossSeries(title, losses, steps, times)


class _Point(NamedTuple):
    """An entry of a curve in an event file; `time` in seconds since 1970."""

    value: float
    step: int
    time: float


class _Message:
    """A message of Protocol Buffers: its fields by their numbers, an int or bytes each.

    Raises:
        ValueError: for bytes that are none, and for a field of another kind than is asked for.
    """

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            value: int | bytes
            match key & 7:
                case 0:
                    value, at = _varint(data, at)
                case 1 | 2 | 5:
                    fixed = {1: 8, 5: 4}.get(key & 7)
                    size, at = _varint(data, at) if fixed is None else (fixed, at)
                    value, at = data[at : at + size], at + size
                case _:
                    raise ValueError(_NO_EVENTS)
            if at > len(data):
                raise ValueError(_NO_EVENTS)
            self._fields.setdefault(key >> 3, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int) -> int:
        """The last value of an int64, 0 where there is none."""
        value = self._fields.get(number, [0])[-1]
        if not isinstance(value, int):
            raise ValueError(_NO_EVENTS)
        return value - 2**64 if value >= 2**63 else value

    def texts(self, number: int) -> list[bytes]:
        """All values of a field of bytes."""
        values = self._fields.get(number, [])
        found = [value for value in values if isinstance(value, bytes)]
        if len(found) < len(values):
            raise ValueError(_NO_EVENTS)
        return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of 64 bits, seven in a byte, the lowest first; and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value % 2**64, at + place + 1
    raise ValueError(_NO_EVENTS)


def _scalars(data: bytes) -> dict[str, list[_Point]]:
    """The curves in an event file, by their tags.

    A record is its length in 8 bytes, 4 bytes of a checksum, an `Event`, 4 of another checksum; the
    last one may not be whole yet. The numbers of fields are those of TensorBoard's `event.proto`,
    `summary.proto` and `tensor.proto`.

    Raises:
        ValueError: for a file of something else.
    """
    curves: dict[str, list[_Point]] = {}
    at = 0
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        if at + 16 + length > len(data):
            break
        event = _Message(data[at + 12 : at + 12 + length])
        at += length + 16
        time = _only_number(event.texts(1) or [bytes(8)], "<f8")
        for summary in event.texts(5):
            for value in map(_Message, _Message(summary).texts(1)):
                number = _scalar(value)
                if number is not None and 1 in value:
                    tag = value.texts(1)[-1].decode(errors="replace")
                    point = _Point(number, event.integer(2), time or 0.0)
                    curves.setdefault(tag, []).append(point)
    return curves


def _scalar(value: _Message) -> float | None:
    """The number of a `Summary.Value`; None: it is a picture, a histogram, a text."""
    if 2 in value:  # simple_value
        return _only_number(value.texts(2)[-1:], "<f4")
    if 8 not in value:
        return None
    tensor = _Message(value.texts(8)[-1])
    dtype, place = {1: ("<f4", 5), 2: ("<f8", 6)}.get(tensor.integer(1), ("", 0))
    return _only_number([*tensor.texts(4), *tensor.texts(place)], dtype) if dtype else None


def _only_number(parts: Sequence[bytes], dtype: str) -> float | None:
    """The only number in some bytes; None where there are several."""
    data = b"".join(parts)
    if len(data) != np.dtype(dtype).itemsize:
        return None
    return float(np.frombuffer(data, dtype)[0])


def _from_mlflow(source: str, asked: _Asked) -> Iterator[LossSeries]:
    """A run, or the runs of an experiment; those of this package as they are judged there."""
    from mlp.config import Tracking
    from mlp.run import existing_store

    store = existing_store(Tracking(uri=asked.uri), f"file, run or experiment {shown(source)}")

    from mlp.tracking.read import fetch_run, is_run_id
    from mlp.tracking.record import judge_result
    from mlp.tracking.store import one_sentence

    with one_sentence(store.uri):
        if is_run_id(source):
            runs = [store.client.get_run(source)]
        else:
            experiment = store.client.get_experiment_by_name(source)
            if experiment is None:
                raise MissingInputError(f"there is no file, run or experiment {shown(source)}")
            found = store.client.search_runs([experiment.experiment_id], max_results=50_000)
            runs = [run for run in reversed(found) if run.data.metrics]
        for run in runs:
            run_id, name = run.info.run_id, f"{run.info.run_name} ({run.info.run_id})"
            if "mlp.curve_digest" in run.data.tags and asked.column is None:
                own = fetch_run(store, run_id)
                judgement = judge_result(own.recipe.config, own.result)
                yield LossSeries(name, own.result.loss, judgement=judgement)
                continue
            if "mlp.study" in run.data.tags:
                continue  # the parent of a study has no curve
            column = _column(f"run {run_id}", list(run.data.metrics), asked.column)[0]
            points = store.client.get_metric_history(run_id, column)
            yield LossSeries(
                name,
                [point.value if abs(point.value) < _LARGEST else np.nan for point in points],
                [point.step for point in points],
                [point.timestamp for point in points],
            )


def _column(name: str, known: Sequence[str], wanted: str | None) -> list[str]:
    """The columns to judge: the one that is named, else loss, else those whose name ends so."""
    if wanted is not None:
        if wanted in known:
            return [wanted]
        ends = [each for each in known if each.endswith(f" - {wanted}")]
        if ends:  # of several runs, in an export of Weights & Biases
            return ends
        hint = did_you_mean(wanted, known, f"it has {_listed(known)}")
        raise MissingInputError(f"{name} has no column {shown(wanted)}{hint}")
    for usual in ("loss", "train_loss", "training_loss", "train/loss", "Loss"):
        if usual in known:
            return [usual]
    like = [each for each in known if "loss" in each.lower() and not each.endswith(("MIN", "MAX"))]
    runs = [each for each in like if each.lower().endswith("loss") and " - " in each]  # W&B's
    if runs:
        return runs
    of_training = [each for each in like if "train" in each.lower()]
    for some in (like, of_training):
        if len(some) == 1:
            return some
    if not like and len(known) == 1:
        return [known[0]]
    raise MissingInputError(f"{name} has no column loss; column=NAME names one of {_listed(known)}")


def _x_column(name: str, known: Sequence[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in known:
        raise MissingInputError(f"{name} has no column {shown(wanted)}; it has {_listed(known)}")
    lower = {each.lower(): each for each in reversed(known)}
    return wanted or next((lower[usual] for usual in _STEPS if usual in lower), None)


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    return (
        one_line(", ".join(some[:12]) + (", ..." if len(some) > 12 else "")) if some else "nothing"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


if __name__ == "__main__":
    main()

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
from dataclasses import dataclass
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
    counted,
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
  a run, a study or an experiment of MLflow, by id or name

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


def main() -> None:
    """The command."""
    from mlp.terminal.console import run_command

    run_command(_judge)


def _judge() -> None:
    typed = sys.argv[1:]
    if not typed or {"--help", "-h"} & set(typed):
        print(_USAGE)
        sys.exit(0 if typed else 2)
    sources, options = _read(typed)
    known = _known(options)
    fail_on = {_verdict(name) for name in options.get("fail_on", "").split(",") if name}
    failed = False
    for source in sources:
        for series in _series(source, options):
            judgement = series.judgement or _judged(series, known)
            failed |= judgement.verdict in fail_on
            say = _as_json if "--json" in typed else _as_text
            print(say(series, judgement))
    sys.stdout.flush()
    if failed:
        sys.exit(1)


def _read(typed: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What is to be judged, and the options."""
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
    return sources, options


def _known(options: Mapping[str, str]) -> dict[str, Any]:
    """What is known of the curves, as arguments of `judge_curve`."""
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


def _judged(series: LossSeries, known: Mapping[str, Any]) -> Judgement:
    try:
        return judge_curve(series.loss, steps=series.steps, times=series.times, **known)
    except ValueError as error:
        raise DataError(f"{series.name}: {one_line(error)}") from None


def _as_json(series: LossSeries, judgement: Judgement) -> str:
    numbers = dataclasses.asdict(judgement)
    numbers["swung"] = None if judgement.swung is None else judgement.swung._asdict()
    return json.dumps({"curve": series.name, "sentence": judgement.sentence, **numbers})


def _as_text(series: LossSeries, judgement: Judgement) -> str:
    numbers = []
    if judgement.last_loss is not None:
        numbers.append(f"ends at {judgement.last_loss:.4g}")
    if judgement.n_entries is not None:
        numbers.append(f"level {judgement.tail_loss:.4g}")
    if judgement.amplitude:
        numbers.append(f"swings by {100 * judgement.amplitude:.0f} %")
    if judgement.period_steps:
        numbers.append(f"period {judgement.period_steps} steps")
    if judgement.n_entries is not None:
        numbers.append(f"values {judgement.n_entries}")
    plot = plot_curve(series.loss, verdict=judgement.verdict)
    rows = [judgement.sentence, " · ".join(numbers), *plot]
    return "\n  ".join([f"{series.name}: {judgement.verdict.value}", *rows])


def _series(source: str, options: Mapping[str, str]) -> Iterator[LossSeries]:
    """The curves of what was typed."""
    path = Path(source)
    if source == "-":
        yield _from_text("-", sys.stdin.read(), options)
    elif path.is_dir():
        yield from _from_folder(path, options)
    elif path.exists():
        yield from _from_files([path], options)
    elif path.suffix.lower() in _SUFFIXES:
        raise MissingInputError(f"there is no file {source}")
    else:
        yield from _from_mlflow(source, options)


def _from_folder(folder: Path, options: Mapping[str, str]) -> Iterator[LossSeries]:
    """Every curve in it; a file without one is passed over, and that is said."""
    n_found = 0
    groups: dict[Path, list[Path]] = {}  # event files of one folder are read together
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix.lower() in _SUFFIXES or _is_of_events(path)):
            groups.setdefault(path.parent if _is_of_events(path) else path, []).append(path)
    for paths in groups.values():
        try:
            found = list(_from_files(paths, options))
        except MlpError as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        n_found += len(found)
        yield from found
    if not n_found:
        raise MissingInputError(f"there is no loss curve in {folder}")


def _is_of_events(path: Path) -> bool:
    return "tfevents" in path.name


def _from_files(paths: Sequence[Path], options: Mapping[str, str]) -> Iterator[LossSeries]:
    """The curves of one file, or of several event files of TensorBoard."""
    path = paths[0]
    name, suffix = str(path), path.suffix.lower()
    try:
        if _is_of_events(path):
            yield from _from_events(paths, options)
        elif suffix in (".npy", ".npz"):
            yield _from_arrays(path, options)
        elif suffix in (".csv", ".tsv"):
            yield from _from_table(name, path.read_text(encoding="utf-8-sig"), suffix, options)
        else:
            yield _from_text(name, path.read_text(encoding="utf-8-sig"), options)
    except UnicodeDecodeError:
        raise DataError(f"{name} must be a text, .csv, .npy or .npz, but is none") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from None


def _from_arrays(path: Path, options: Mapping[str, str]) -> LossSeries:
    name, loaded = str(path), np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return LossSeries(name, np.asarray(loaded, dtype=np.float64))
    with loaded:
        names = list(loaded.files)
        loss = np.asarray(loaded[_columns(name, names, options)[0]], dtype=np.float64)
        x = _x_column(name, names, options)
        steps = None if x is None else loaded[x]
        if steps is not None and steps.shape != loss.shape and "x" not in options:
            steps = None  # of another array of the file
        return LossSeries(name, loss, steps)


def _from_table(
    name: str, text: str, suffix: str, options: Mapping[str, str]
) -> Iterator[LossSeries]:
    """Each curve of a table; in one of Weights & Biases there is one for each run."""
    separator = "\t" if suffix == ".tsv" else ";" if text.partition("\n")[0].count(";") else ","
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    if not rows:
        raise DataError(f"{name} is empty")
    if len(rows[0]) == 1 and _number(rows[0][0]) is not None:  # no header
        yield _from_text(name, text, options)
        return
    header = [title.strip() for title in rows[0]]
    columns = _columns(name, header, options)
    x = _x_column(name, header, options)
    for column in columns:
        place = header.index(column)
        at = place if x is None else header.index(x)
        pairs = [
            (_number(row[place]), _number(row[at])) for row in rows[1:] if len(row) > max(place, at)
        ]
        kept = [pair for pair in pairs if None not in pair]
        if not kept:
            raise DataError(f"{name} has no numbers in its column {column}")
        losses, steps = np.transpose(np.array(kept, dtype=np.float64))
        title = name if len(columns) == 1 else f"{name} {column}"
        yield LossSeries(title, losses, None if x is None else steps)


def _from_text(name: str, text: str, options: Mapping[str, str]) -> LossSeries:
    """Numbers alone, or what stands behind the word in each line that has it."""
    numbers = [_number(word) for word in text.replace(",", " ").split()]
    if numbers and None not in numbers and "column" not in options:
        return LossSeries(name, np.array(numbers, dtype=np.float64))
    word = options.get("column", "loss")
    behind = re.compile(rf"{re.escape(word)}\b[^\d\n+-]*?({_NUMBER})(?![\w.])", re.IGNORECASE)
    before = re.compile(r"\b(?:step|iter(?:ation)?|epoch|batch)\b\D{0,3}(\d+)", re.IGNORECASE)
    found = [(behind.search(line), before.search(line)) for line in text.splitlines()]
    kept = [(float(loss[1]), step) for loss, step in found if loss is not None]
    if not kept:
        raise DataError(f"{name} has no number behind the word {shown(word)}; column=NAME names it")
    steps = [int(step[1]) for _, step in kept if step is not None]
    is_order = len(steps) == len(kept) and all(a < b for a, b in pairwise(steps))
    return LossSeries(name, [loss for loss, _ in kept], steps if is_order else None)


# TensorBoard's event files


def _from_events(paths: Sequence[Path], options: Mapping[str, str]) -> Iterator[LossSeries]:
    """The curves of TensorBoard's event files of one folder, the older file first.

    A file that goes on where one before it ended, or at a checkpoint of it, is of the same run.
    """
    curves: dict[str, list[tuple[str, list[_Point]]]] = {}
    for path in paths:
        try:
            found = _scalars(path.read_bytes())
            columns = _columns(str(path), list(found), options)
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
                replaced = counted(len(earlier) - len(kept), "entry", "entries")
                said = f"{path} replaces {replaced} of {name}, from step {points[0].step} on"
                print(said, file=sys.stderr)
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
        integers, parts = _message(data[at + 12 : at + 12 + length])
        at += length + 16
        time = _only_number(parts.get(1, []), "<f8") or 0.0
        for summary in parts.get(5, []):
            for value in _message(summary)[1].get(1, []):
                tags, number = _message(value)[1].get(1), _scalar(value)
                if tags and number is not None:
                    point = _Point(number, integers.get(2, 0), time)
                    curves.setdefault(tags[-1].decode(errors="replace"), []).append(point)
    return curves


def _scalar(value: bytes) -> float | None:
    """The number of a `Summary.Value`; None: it is a picture, a histogram, a text."""
    _, parts = _message(value)
    if 2 in parts:  # simple_value
        return _only_number(parts[2][-1:], "<f4")
    integers, parts = _message(parts.get(8, [b""])[-1])  # tensor
    dtype, place = {1: ("<f4", 5), 2: ("<f8", 6)}.get(integers.get(1, 0), ("", 0))
    return _only_number([*parts.get(4, []), *parts.get(place, [])], dtype) if dtype else None


def _only_number(parts: Sequence[bytes], dtype: str) -> float | None:
    """The only number in some bytes; None where there are none or several."""
    data = b"".join(parts)
    return float(np.frombuffer(data, dtype)[0]) if len(data) == np.dtype(dtype).itemsize else None


def _message(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """A message of Protocol Buffers: its integers (the last of each field), and its bytes.

    Raises:
        ValueError: for bytes that are none.
    """
    integers: dict[int, int] = {}
    parts: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            integers[field] = value - 2**64 if value >= 2**63 else value
        elif kind in (1, 2, 5):
            size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            parts.setdefault(field, []).append(data[at : at + size])
            at += size
        else:
            raise ValueError(_NO_EVENTS)
        if at > len(data):
            raise ValueError(_NO_EVENTS)
    return integers, parts


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of 64 bits, seven in a byte, the lowest first; and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value % 2**64, at + place + 1
    raise ValueError(_NO_EVENTS)


# MLflow


def _from_mlflow(source: str, options: Mapping[str, str]) -> Iterator[LossSeries]:
    """A run, or those of a study or experiment; this package's own as they are judged there."""
    from mlp.config import Tracking
    from mlp.run import existing_store

    wanted = f"file, run, study or experiment {shown(source)}"
    store = existing_store(Tracking(uri=options.get("uri")), wanted)

    from mlp.tracking.read import fetch_run, is_run_id
    from mlp.tracking.record import judge_result
    from mlp.tracking.store import all_runs, one_sentence

    with one_sentence(store.uri):
        if is_run_id(source):
            runs = [store.client.get_run(source)]
        elif (experiment := store.client.get_experiment_by_name(source)) is not None:
            found = store.client.search_runs([experiment.experiment_id], max_results=50_000)
            runs = [run for run in reversed(found) if run.data.metrics]
        else:
            study = source.replace("'", "-")  # a quote would end the text; no name has one
            every = all_runs(store, f"tags.`mlp.study` = '{study}' AND tags.`mlp.trial` LIKE '%'")
            trials = [run for run in every if run.data.tags["mlp.trial"].isdecimal()]
            runs = sorted(trials, key=lambda run: int(run.data.tags["mlp.trial"]))
            if not runs:
                raise MissingInputError(f"there is no {wanted}")
        for run in runs:
            run_id, name = run.info.run_id, f"{run.info.run_name} ({run.info.run_id})"
            if "mlp.curve_digest" in run.data.tags and "column" not in options:
                own = fetch_run(store, run_id)
                judgement = judge_result(own.recipe.config, own.result)
                yield LossSeries(name, own.result.loss, judgement=judgement)
                continue
            if "mlp.study" in run.data.tags:
                continue  # the parent of a study has no curve
            column = _columns(f"run {run_id}", list(run.data.metrics), options)[0]
            points = store.client.get_metric_history(run_id, column)
            yield LossSeries(
                name,
                [point.value if abs(point.value) < _LARGEST else np.nan for point in points],
                [point.step for point in points],
                [point.timestamp for point in points],
            )


# Columns


def _columns(name: str, known: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """The columns to judge: the one that is named, else loss, else those whose name ends so."""
    wanted = options.get("column")
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


def _x_column(name: str, known: Sequence[str], options: Mapping[str, str]) -> str | None:
    wanted = options.get("x")
    if wanted is not None and wanted not in known:
        raise MissingInputError(f"{name} has no column {shown(wanted)}; it has {_listed(known)}")
    lower = {each.lower(): each for each in reversed(known)}
    return wanted or next((lower[usual] for usual in _STEPS if usual in lower), None)


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    return one_line(", ".join(some[:12] + ["..."] * (len(some) > 12)) or "nothing")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


if __name__ == "__main__":
    main()

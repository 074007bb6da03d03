"""Studies and runs read back from MLflow, whoever recorded them.

Importing this imports MLflow. The store may be anybody's: nothing in it is resolved or executed.

Three ways lead here. A study is read as MLflow lists it (`PastStudy`, `PastRun`), by a few requests
for thousands of runs; a run that cannot be read is left out. A run of another program is read by
its curve, and its params as settings as far as they are such (`BroughtRun`). A single run is read
from its record (`TrackedRun`), whose files are fetched only from the store itself, from a folder,
or from an object store.
"""

import ast
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlp.tracking.store import (  # first: it sets MLflow up
    STUDY_FILE,
    Store,
    all_runs,
    as_params,
    get_run,
    one_sentence,
)

# isort: split

import resource
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from numpy.typing import NDArray

from mlp.config import Own, RunConfig, SweepConfig, Value
from mlp.curve import CHANCE_LOSS, Judgement, Verdict, judge_curve
from mlp.engine.result import Ending, Result
from mlp.errors import (
    MissingInputError,
    RecordError,
    SettingError,
    did_you_mean,
    one_line,
    shown,
)
from mlp.program import LARGEST_SOURCE
from mlp.settings import (
    SEED,
    grouped,
    read_run,
    read_sweep,
    setting_choices,
    settings_of,
    with_arguments,
    with_settings,
)
from mlp.tracking import record
from mlp.tracking.batch import Batch, configs_in, read_batch
from mlp.tracking.display import PROGRAM, ThinCurve, noted_program, read_numbers
from mlp.tracking.listing import CONFIRMS, EXPLAINS, KEY, STUDY, checked_key, explanation_key
from mlp.tracking.params import ReadParams, parsed, read_params, settings_paths
from mlp.tracking.record import (
    CONFIG_FILE,
    CURVE_FILE,
    LARGEST_TEXT,
    WEIGHTS_FILE,
    Recipe,
    parse_json,
    read_program_values,
    read_recipe,
    read_settings,
    read_text,
)

_BATCH_NAME = re.compile(r"reruns-[0-9a-f]{16}\.json")
_OF_FOLDERS = ("", "file")
_OF_CLOUDS = ("s3", "gs", "wasbs", "abfss")
_OF_SERVERS = ("mlflow-artifacts", *_OF_CLOUDS)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CUT_SHORT = (Ending.PRUNED.value, Ending.CRASHED.value)
_LARGEST = 1.7e308  # MLflow writes so many for an infinity

_RUN_ID, _SHORT_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{4,31}")
_NAME = re.compile(r"[\w.-]{1,200}")
_STUDY_END = "/study"
_MOST_IN_ORDER = 0.9  # of the points of a step; where fewer differ in time, a swing may be turned
_MOST_RUNS = 50_000  # more than anybody looks at, and what MLflow gives at most


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """A run that was read back, checked against the digests it was recorded with.

    Attributes:
        experiment_id: likewise, of where it is.
        recipe: its config, data digest and ending.
        tags: what else was noted, each value one printable line.
    """

    run_id: str
    experiment_id: str
    recipe: Recipe
    result: Result
    tags: dict[str, str]


def fetch_run(store: Store, run_id: str) -> TrackedRun:
    """Reads a run back, trusting nothing in it.

    Raises:
        SettingError: for what is no run id, nor the beginning of one.
        MissingInputError: for a run that the store does not have.
        RecordError: for one that this program did not record, or not to the end, or that was
            changed since.
    """
    run_id = whole_run_id(store, run_id)
    with one_sentence(store.uri), TemporaryDirectory() as made:
        folder, run = Path(made), get_run(store, run_id)
        if "mlp.curve_digest" not in run.data.tags:
            what = "the parent of a study" if STUDY in run.data.tags else "not one of this program"
            raise RecordError(f"run {run_id} has no curve and weights to rerun: it is {what}")
        if run.info.status != "FINISHED":
            raise RecordError(f"run {run_id} was not recorded to its end: it is {run.info.status}")
        files, sizes = _files_of(store, run)
        _get_file(files, sizes, CONFIG_FILE, folder, LARGEST_TEXT)
        recipe = read_recipe(read_text(folder / CONFIG_FILE))
        curve, weights = record.expected_curve(recipe), record.expected_weights(recipe)
        _get_file(files, sizes, CURVE_FILE, folder, record.largest_file(curve))
        _get_file(files, sizes, WEIGHTS_FILE, folder, record.largest_file(weights))
        recipe, result = record.read_artifacts(folder)
    for name, digest in {"data_digest": recipe.data_digest, **record.digests(result)}.items():
        if run.data.tags.get(f"mlp.{name}") != digest:
            raise RecordError(f"run {run_id} was changed: its files do not have its mlp.{name}")
    for param in as_params(settings_of(recipe.config)):
        if run.data.params.get(param.key, param.value) != param.value:  # of older runs some lack
            raise RecordError(
                f"run {run_id} was changed: its {record.CONFIG_FILE} has another {param.key} than "
                "its params"
            )
    tags = {one_line(name): one_line(value) for name, value in run.data.tags.items()}
    return TrackedRun(
        run_id=run_id,
        experiment_id=str(run.info.experiment_id),
        recipe=recipe,
        result=result,
        tags=tags,
    )


def fetch_source(store: Store, run_id: str) -> str:
    """The text that the file of a run's own function had; empty where it is not known."""
    with one_sentence(store.uri), suppress(RecordError):
        files, sizes = _files_of(store, get_run(store, run_id))
        return _text(files, sizes, record.SOURCE_FILE, LARGEST_SOURCE)
    return ""


def _files_of(store: Store, run: Run) -> tuple[ArtifactRepository, dict[str, int]]:
    """Where a run's files are, if that is an address that is followed, and the size of each."""
    address, uri = str(run.info.artifact_uri), str(store.client.tracking_uri)
    where = urlsplit(address)
    hosts = ("", urlsplit(uri).netloc)
    is_other_host = where.scheme not in _OF_CLOUDS and where.netloc not in hosts
    allowed = _OF_FOLDERS if uri.startswith("sqlite") else (*_OF_FOLDERS, *_OF_SERVERS)
    if where.scheme not in allowed or is_other_host:
        raise RecordError(f"the files of the run are at {shown(address)}, which is not followed")
    files = get_artifact_repository(address, tracking_uri=uri)
    try:
        return files, {f.path: f.file_size or 0 for f in files.list_artifacts() if not f.is_dir}
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # MLflow checks no answer
        raise RecordError(
            f"the list of the run's files cannot be read: {one_line(error)}"
        ) from None


def _text(
    files: ArtifactRepository, sizes: Mapping[str, int], name: str, most: int = LARGEST_TEXT
) -> str:
    """The text of one of a run's files, of at most so many bytes."""
    with TemporaryDirectory() as folder:
        _get_file(files, sizes, name, Path(folder), most)
        return read_text(Path(folder) / name, most)


def _get_file(
    files: ArtifactRepository, sizes: Mapping[str, int], name: str, folder: Path, most: int
) -> None:
    """Downloads one of a run's files, if it is no larger than it may be."""
    size = sizes.get(name)
    if size is None or not 0 < size <= most:
        found = "is missing" if size is None else f"has {size} bytes"
        raise RecordError(f"the run must have a {name} of 1 to {most} bytes, but it {found}")
    with _no_file_larger_than(most):  # the size was what a server said
        files.download_artifacts(name, str(folder))


@contextmanager
def _no_file_larger_than(most: int) -> Iterator[None]:
    """The system ends each write beyond the limit with an error."""
    before, hardest = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hardest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hardest))


@dataclass(frozen=True)
class PastRun:
    """A tracked run as attribution and the report see it.

    Attributes:
        trial: its number in its study; None outside of one.
        data_digest: SHA-256 of its data, 64 hex digits; None where nobody noted it.
        metrics: the last value of each, finite.
        started_ms: milliseconds since 1970 in UTC.
        mechanism: what was noted of the stability; None where nobody measured it.
        curve: its loss, thinned, where that is read with it.
        metric: that its loss is read from.
    """

    run_id: str
    name: str
    trial: int | None
    config: RunConfig
    judgement: Judgement
    data_digest: str | None
    metrics: Mapping[str, float]
    started_ms: int
    ended_ms: int
    mechanism: str | None = None
    metric: str = "loss"
    curve: ThinCurve | None = None


@dataclass(frozen=True, eq=False)
class BroughtRun:
    """A run of another program.

    Attributes:
        status: as MLflow has it; a run that was stopped has a curve as well.
        params: as they were logged, numbers as numbers.
        loss: `(entry,)`, in order.
        step: `(entry,)`, as they were logged.
        read: what the params say about the training.
        started_ms: milliseconds since 1970 in UTC.
    """

    run_id: str
    name: str
    status: str
    params: Mapping[str, Value]
    judgement: Judgement
    loss: NDArray[np.float64]
    step: NDArray[np.int64]
    read: ReadParams
    started_ms: int
    ended_ms: int

    @property
    def verdict(self) -> Verdict:
        """How its loss ended."""
        return self.judgement.verdict


@dataclass(frozen=True)
class Meaning:
    """What somebody says about the runs of another program.

    Attributes:
        names: param -> path of the setting that it stands for.
        given: path -> value of settings that hold where the params say nothing.
    """

    metric: str = "loss"
    names: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Value] = field(default_factory=dict)


def read_past_run(store: "Store", run: "Run") -> PastRun:
    """Reads a run from what MLflow lists of it; from its loss curve too, where it has no verdict.

    Raises:
        RecordError: for one that was cut short, or that lacks settings or a loss.
        SettingError: for settings that the door refuses.
    """
    tags = run.data.tags
    if tags.get("mlp.ending") in _CUT_SHORT:
        raise RecordError(f"it was {tags['mlp.ending']}, so its loss does not say how it ends")
    metrics = read_numbers(tags)
    metrics |= {k: float(v) for k, v in run.data.metrics.items() if math.isfinite(v)}
    digest, trial = tags.get("mlp.data_digest", ""), tags.get("mlp.trial", "")
    return PastRun(
        run_id=str(run.info.run_id),
        name=one_line(run.info.run_name or run.info.run_id),
        trial=int(trial) if re.fullmatch(r"\d{1,9}", trial) else None,
        config=_config(run.data.params, noted_program(tags)),
        judgement=_judgement(store, run, metrics),
        data_digest=digest if _DIGEST.fullmatch(digest) else None,
        metrics=metrics,
        started_ms=int(run.info.start_time or 0),
        ended_ms=int(run.info.end_time or run.info.start_time or 0),
        mechanism=one_line(tags["mechanism"]) if "mechanism" in tags else None,
    )


def _config(params: Mapping[str, str], program: str | None) -> RunConfig:
    """The settings among the params, through the door.

    Args:
        program: the signature of an own function, as it was noted.
    """
    if program is not None:
        own = read_program_values(parse_json(program, source=PROGRAM))
        kinds = {f"own.{each.name}": each.kind for each in own.arguments}
        kinds |= {} if own.role("seed") else {SEED: "int"}
        if not kinds.keys() <= params.keys():
            raise RecordError("it lacks params of its own function")
        values = {path: _plain_python(params[path], kind) for path, kind in kinds.items()}
        return read_settings(values, own, source="its list of params")
    words = setting_choices()  # "none" is one of them, and no None
    values = {
        path: params[path] if path in words else parsed(params[path])
        for path in settings_paths()
        if path in params and path != "data.root"
    }
    if not values:
        raise RecordError("it has no param that is a setting")
    return read_run(grouped(values))


def _plain_python(text: str, kind: str) -> Any:
    """What a param of an own function was: a plain value, or a list of such."""
    if kind == "str" and text != str(None):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _judgement(store: "Store", run: "Run", metrics: Mapping[str, float]) -> Judgement:
    """What was noted of the loss; judged here where this program did not, or an earlier one did."""
    verdict = run.data.tags.get("verdict")
    # The earlier rule, which noted no ripples, called them oscillation; its other verdicts hold.
    is_doubtful = verdict == Verdict.OSCILLATING.value and "ripples" not in metrics
    if verdict not in set(Verdict) or "amplitude" not in metrics or is_doubtful:
        points = store.client.get_metric_history(run.info.run_id, "loss")
        known = {int(point.step): float(point.value) for point in points}  # uploaded twice: once
        if not known:
            raise RecordError("it has no loss curve")
        loss = np.array([known[step] for step in sorted(known)])
        finite = np.where(np.abs(loss) < _LARGEST, loss, np.nan)
        return judge_curve(finite, steps=sorted(known), reference=CHANCE_LOSS, noise=0.0)
    period = metrics.get("period_steps")
    return Judgement(
        verdict=Verdict(verdict),
        amplitude=metrics["amplitude"],
        ripples=metrics.get("ripples", 0.0),
        tail_loss=metrics.get("tail_loss", metrics.get("final_loss", 0.0)),
        flip_rate=metrics.get("flip_rate", 0.0),
        period_steps=None if period is None else int(period),
        largest_rise=metrics.get("largest_rise", 0.0),
        last_rise_step=None,
        spiked=bool(metrics.get("spiked", 0.0)),
    )


@dataclass(frozen=True)
class PastStudy:
    """Runs that are looked at together.

    Attributes:
        name: of the study or experiment.
        key: what explanations of it are found again by.
        run_id: the parent run; None for an experiment that no study made.
        sweep: the settings of the study; None where nobody recorded them.
        runs: by trial, then by time; finished ones only.
        why_left_out: of the first of them.
        duration_s: seconds in which any of the runs was trained.
        is_at_end: whether its run is finished, or has as many trials as were asked for.
        brought: those of other programs; those whose settings are known are in `runs` too.
    """

    name: str
    key: str
    run_id: str | None
    experiment_id: str
    sweep: SweepConfig | None
    runs: tuple[PastRun, ...]
    n_left_out: int
    why_left_out: str
    duration_s: float
    is_at_end: bool
    brought: tuple[BroughtRun, ...] = ()


def is_run_id(text: str) -> bool:
    """Whether a text is an id as MLflow gives them: 32 hex digits."""
    return _RUN_ID.fullmatch(text) is not None


def whole_run_id(store: Store, typed: str) -> str:
    """The id of the run that is meant by its first digits, four or more.

    Raises:
        SettingError: for what is no run id, or the beginning of several.
        MissingInputError: where no run begins so.
    """
    if is_run_id(typed):
        return typed
    if not _SHORT_ID.fullmatch(typed):
        raise SettingError(
            f"a run id must be 32 hex digits, or the first of them, but is {one_line(typed)!r}"
        )
    with one_sentence(store.uri):
        begun = _search(store, f"attributes.run_id LIKE '{typed}%'")
        ids = [str(run.info.run_id) for run in begun]
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise SettingError(f"{typed} begins the ids of {len(ids)} runs, such as {ids[0]}")
        known = [run.info.run_id[: len(typed)] for run in _search(store, "")]
    hint = did_you_mean(typed, known)
    raise MissingInputError(f"there is no run {typed} in {store.uri}{hint}")


def meant_run(store: Store, which: str) -> str:
    """The whole id where the beginning of one was typed, which names nothing else."""
    if not _SHORT_ID.fullmatch(which):
        return which
    with one_sentence(store.uri):
        is_name = store.client.get_experiment_by_name(which) or _find_parent(store, which)
    if is_name:
        return which
    return whole_run_id(store, which)


def is_tracked_run(store: Store, run_id: str) -> bool:
    """Whether a run was trained by this program, and is not the parent of a study."""
    with one_sentence(store.uri):
        run = get_run(store, run_id)
    return _study_key(run) is None and not is_brought(run)


def read_study(store: Store, which: str | None, meaning: Meaning | None = None) -> PastStudy:
    """Reads the runs of a study.

    Args:
        which: a study's name, the id of its parent run, the name of an experiment, or the id of a
            run of another program; None: the study that was started last.
        meaning: of what other programs have logged.

    Raises:
        MissingInputError: where there is none.
        RecordError: for one without any run that can be read.
    """
    meaning = meaning or Meaning()
    with one_sentence(store.uri):
        if which is not None and is_run_id(which):
            run = get_run(store, which)
            if is_brought(run):
                return _study(store, which, f"run-{which}", [run], meaning)
        parent = _find_parent(store, which)
        if parent is None:
            return _whole_experiment(store, str(which), meaning)
        key = _study_key(parent) or ""
        children = _search(
            store,
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            parent.info.experiment_id,
        )
        name, trials = one_line(parent.data.tags.get(STUDY, key)), filter(_is_trial, children)
        return _study(store, name, key, list(trials), meaning, parent)


def read_reruns(store: Store, key: str) -> tuple[PastRun, ...]:
    """The reruns that earlier explanations of a study or a run have trained, by its key.

    They are files of the explanation's run; earlier versions made a run of each. One that cannot be
    read is as good as none: it is trained again.
    """
    reruns: list[PastRun] = []
    with one_sentence(store.uri):
        for run in _search(store, f"tags.`{EXPLAINS}` = '{checked_key(key)}'"):
            if run.data.tags.get(KEY) == explanation_key(key):
                files, sizes = _files_of(store, run)
                for name in filter(_BATCH_NAME.fullmatch, sizes):
                    with suppress(RecordError):
                        batch = read_batch(_text(files, sizes, name))
                        reruns += reruns_of(batch, str(run.info.run_id))
            elif "verdict" in run.data.tags and run.info.status == "FINISHED":
                with suppress(RecordError, SettingError):
                    reruns.append(read_past_run(store, run))
    return tuple(reruns)


def reruns_of(batch: Batch, run_id: str = "") -> list[PastRun]:
    """The reruns of a batch, by the id of the explanation's run."""
    return [
        PastRun(
            run_id=run_id,
            name="",
            trial=None,
            config=config,
            judgement=own.judgement,
            data_digest=batch.data_digest,
            metrics={},
            started_ms=own.started_ms,
            ended_ms=own.ended_ms,
            curve=ThinCurve(np.array(own.loss, np.float64), np.array(own.step, np.int64)),
        )
        for own, config in zip(batch.reruns, configs_in(batch), strict=True)
    ]


def read_points(store: Store, run_id: str, metric: str) -> ThinCurve:
    """The points of a curve as they were logged: its lows and highs; finite ones only."""
    with one_sentence(store.uri):
        points = store.client.get_metric_history(run_id, metric)
    known = {int(point.step): float(point.value) for point in points if math.isfinite(point.value)}
    steps = np.array(sorted(known), np.int64)
    return ThinCurve(np.array([known[int(step)] for step in steps], np.float64), steps)


def _find_parent(store: Store, which: str | None) -> Run | None:
    if which is not None and is_run_id(which):
        run = get_run(store, which)
        if _study_key(run) is None:
            raise RecordError(f"run {which} is not the parent of a study")
        return run
    found = next(filter(_study_key, _search(store, _named(which))), None)
    if found is None and which is None:
        experiment = store.client.get_experiment(store.experiment_id).name
        single = next(filter(_is_trial, _search(store, "")), None)
        way = f"python -m mlp.explain {shlex.quote(experiment)} explains the runs of no study"
        raise MissingInputError(
            f"there is no study in {store.uri}; "
            + (f"{way}, and " if single else "")
            + "python -m mlp.sweep makes one, and a name or an id finds one elsewhere"
        )
    return found


def _named(which: str | None) -> str:
    if which is None:
        return f"tags.`{KEY}` LIKE '%{_STUDY_END}'"
    name = which if _NAME.fullmatch(which) else "-"  # it is quoted in the filter
    return f"tags.`{STUDY}` = '{name}' AND tags.`{KEY}` LIKE '%{_STUDY_END}'"


def _whole_experiment(store: Store, which: str, meaning: Meaning) -> PastStudy:
    """All runs of an experiment that somebody else may have made."""
    experiment = store.client.get_experiment_by_name(which)
    if experiment is None:
        raise MissingInputError(
            f"there is no study and no experiment {one_line(which)} in {store.uri}"
            f"{_nearest(store, which)}"
        )
    found = _search(store, "", experiment.experiment_id)
    runs = [run for run in found if _is_trial(run) and _study_key(run) is None]
    key, name = f"experiment-{experiment.experiment_id}", one_line(experiment.name)
    return _study(store, name, key, runs, meaning)


def known_names(store: Store) -> list[str]:
    """Names of the studies, the newest first, and of the experiments."""
    studies = _search(store, _named(None))
    known = [one_line(run.data.tags.get(STUDY, "")) for run in studies]
    return [*known, *(one_line(own.name) for own in store.client.search_experiments())]


def short_ids(store: Store, begin: str) -> list[str]:
    """First digits, eight or more, of the runs whose ids begin so; none for other letters."""
    if not re.fullmatch("[0-9a-f]{0,32}", begin):
        return []
    found = _search(store, f"attributes.run_id LIKE '{begin}%'")
    return [str(run.info.run_id)[: max(8, len(begin))] for run in found]


def _nearest(store: Store, which: str) -> str:
    """The study or experiment that was meant, in words; empty where none is near."""
    known = known_names(store)
    begun = [name for name in known if name.startswith(which)]
    return f"; did you mean '{begun[0]}'?" if begun else did_you_mean(which, known)


def is_brought(run: Run) -> bool:
    """Whether another program has recorded a run."""
    return not {KEY, EXPLAINS, CONFIRMS, "mlp.curve_digest"} & set(run.data.tags)


def _study(
    store: Store,
    name: str,
    key: str,
    found: Sequence[Run],
    meaning: Meaning,
    parent: Run | None = None,
) -> PastStudy:
    """The runs of a study or an experiment, as far as they can be read.

    Args:
        parent: the study's own run; None: no study has made them.
    """
    known: list[PastRun] = []
    brought: list[BroughtRun] = []
    reasons: list[str] = []
    without: Counter[str] = Counter()
    for run in found:
        if parent is None and is_brought(run):
            try:
                brought.append(_brought(store, run, meaning))
            except RecordError as error:
                without[f"{run.info.status} {error}"] += 1
        elif run.info.status == "FINISHED":
            try:
                known.append(read_past_run(store, run))
            except (RecordError, SettingError) as error:
                reasons.append(f"run {run.info.run_id}: {error}")
    is_ours = not brought and not without
    left_out = [*(reasons[:1] if is_ours else reasons), *(f"{n} {w}" for w, n in without.items())]
    if not known and not brought:
        raise RecordError(f"{name} {_why_none(found, left_out, parent, meaning.metric)}")
    runs = [*known, *filter(None, (_as_past_run(own, meaning.metric) for own in brought))]
    sweep = _read_sweep(store, parent) if parent else None
    return PastStudy(
        name=name,
        key=key,
        run_id=parent.info.run_id if parent else None,
        experiment_id=str(found[0].info.experiment_id),
        sweep=sweep,
        runs=tuple(sorted(runs, key=lambda run: (0 if brought else run.trial or 0, *_began(run)))),
        n_left_out=len(reasons) + without.total(),
        why_left_out=", ".join(left_out),
        duration_s=busy_s([*known, *brought]),
        is_at_end=parent is None
        or parent.info.status == "FINISHED"
        or (sweep is not None and len(runs) + len(reasons) >= sweep.study.n_trials),
        brought=tuple(sorted(brought, key=_began)),
    )


def _began(run: PastRun | BroughtRun) -> tuple[int, str]:
    return run.started_ms, run.run_id


def _why_none(found: Sequence[Run], left_out: list[str], parent: Run | None, metric: str) -> str:
    """Why no run can be read, for a sentence; of another program's, with what they have."""
    metrics = {name for run in found for name in run.data.metrics}
    if parent is not None or not any(map(is_brought, found)):
        why = f": {left_out[0]}" if left_out else ""
        if parent is not None and not left_out:
            why = "; runs that wait for MLflow are uploaded when the same sweep is typed again"
            why += ", or by python -m mlp.doctor fix=true"
        return f"has no finished run whose settings and loss can be read{why}"
    if metric in metrics:
        return f"has no run that can be judged: {', '.join(left_out)}"
    said = f"has no run with a metric {one_line(metric)}"
    if not metrics:
        return f"{said}, nor any other; each step's loss is to be logged, with its step"
    likely = sorted(metrics, key=lambda own: ("loss" not in own.lower(), "val" in own.lower(), own))
    return f"{said}; type metric={likely[0]}, or another of {one_line(', '.join(likely[:6]))}"


def _brought(store: Store, run: Run, meaning: Meaning) -> BroughtRun:
    """A run of another program."""
    loss, step = _curve(store, run, meaning.metric)
    read = read_params(run.data.params, names=meaning.names, given=meaning.given)
    read = _with_steps(read, int(step[-1]), is_whole=run.info.status == "FINISHED")
    started = int(run.info.start_time or 0)
    return BroughtRun(
        run_id=str(run.info.run_id),
        name=one_line(run.info.run_name or run.info.run_id),
        status=str(run.info.status),
        params={name: parsed(text) for name, text in run.data.params.items()},
        judgement=judge_as_logged(loss, read.config),
        loss=loss,
        step=step,
        read=read,
        started_ms=started,
        ended_ms=int(run.info.end_time or started),
    )


def judge_as_logged(loss: NDArray[np.float64], config: RunConfig | None) -> Judgement:
    """Judges a loss as another program logs it.

    Args:
        loss: `(entry,)`, in order.
        config: of the run; None: nothing is known of its loss.
    """
    if config is None:
        return judge_curve(loss)
    batch_size, steps = config.training.batch_size, config.training.steps
    if batch_size is not None and 2 * loss.size > steps:  # of each step, not of an epoch
        return judge_curve(loss, reference=CHANCE_LOSS, batch_size=batch_size)
    return judge_curve(loss, reference=CHANCE_LOSS, noise=0.0)


def _curve(store: Store, run: Run, metric: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The points of a metric by step; where most share their steps, by step and time.

    Raises:
        RecordError: where there are none, or their order is not known.
    """
    if metric not in run.data.metrics:
        raise RecordError(f"without a metric {one_line(metric)}")
    points = store.client.get_metric_history(run.info.run_id, metric)
    known = {int(point.step): point for point in points}
    if 2 * len(known) > len(points):
        ordered = [known[step] for step in sorted(known)]  # of a step that came twice the last
        step = np.array([int(point.step) for point in ordered], np.int64)
    else:
        ordered = sorted(points, key=lambda point: (int(point.step), int(point.timestamp)))
        times = {(int(point.step), int(point.timestamp)) for point in ordered}
        if len(times) < _MOST_IN_ORDER * len(ordered):
            raise RecordError(
                f"with {len(points)} points that share their steps and times, so that their order "
                "is not known (log each with its step)"
            )
        step = np.arange(len(ordered))
    loss = np.array([float(point.value) for point in ordered])
    return np.where(np.abs(loss) < _LARGEST, loss, np.nan), step


def _with_steps(read: ReadParams, last: int, *, is_whole: bool) -> ReadParams:
    """As long as the curve, where nobody says how long, or where the run was stopped before."""
    path = "training.steps"
    if read.config is None or last < 1:
        return read
    if path in read.defaults or (not is_whole and last < read.config.training.steps):
        config = with_settings(read.config, {path: last})
        return replace(read, config=config, defaults=tuple(p for p in read.defaults if p != path))
    return read


def _as_past_run(run: BroughtRun, metric: str) -> PastRun | None:
    """A run of another program as attribution sees it; None where its settings are not known."""
    if run.read.config is None:
        return None
    return PastRun(
        run_id=run.run_id,
        name=run.name,
        trial=None,
        config=run.read.config,
        judgement=run.judgement,
        data_digest=None,
        metrics={"final_loss": float(run.loss[-1])} if math.isfinite(run.loss[-1]) else {},
        started_ms=run.started_ms,
        ended_ms=run.ended_ms,
        metric=metric,
    )


def _read_sweep(store: Store, parent: Run) -> SweepConfig | None:
    """The settings of a study from its file; None where there is none that can be used."""
    try:
        files, sizes = _files_of(store, parent)
        values = parse_json(_text(files, sizes, STUDY_FILE), source=STUDY_FILE)
        if not isinstance(values, dict):
            return None
        if (own := values.pop("own", None)) is not None:  # never a file that a record names
            if not isinstance(own, dict):
                return None
            program = read_program_values(own.pop("program", None))
            values["own"] = with_arguments(Own(program, ()), own)
        return read_sweep(values)
    except (RecordError, SettingError):  # what the runs differ in is the space then
        return None


def _is_trial(run: Run) -> bool:
    """Whether a run was trained for its own sake, and not for an explanation or confirmation."""
    return not {EXPLAINS, CONFIRMS} & set(run.data.tags)


def _study_key(run: Run) -> str | None:
    """The key of the study whose parent a run is; None for any other run."""
    key = str(run.data.tags.get(KEY, ""))
    name = key.removesuffix(_STUDY_END)
    return name if name != key and _NAME.fullmatch(name) else None


def _search(store: Store, condition: str, experiment_id: str | None = None) -> list[Run]:
    """All runs of the store's or another experiment that meet a condition, the newest first."""
    return list(all_runs(store, condition, experiment_id, newest_first=True, most=_MOST_RUNS))


def busy_s(runs: Sequence[PastRun | BroughtRun]) -> float:
    """Seconds covered by the trainings of the runs; those of a population run at once."""
    busy, reached = 0, 0
    for run in sorted((r for r in runs if r.started_ms), key=lambda run: run.started_ms):
        busy += max(0, run.ended_ms - max(run.started_ms, reached))
        reached = max(reached, run.ended_ms)
    return busy / 1000

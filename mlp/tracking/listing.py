"""What MLflow's pages show: of a run its listing, of a study its page and its view.

A listing (name, tags, params, points) is made when the run is kept, and lies beside its record, so
that whoever uploads the folder neither reads the arrays back nor computes anything. All of it is
made without MLflow, whose import takes seconds. Descriptions are short Markdown notes: MLflow's
pages show some six lines of one and hide the rest, so what matters comes first.

MLflow keeps the views that people save as tags of the experiment, and opens one by its address. So
a study brings its own: the verdict first, then numbers and the settings that it searches; and the
loss curves of all of its runs over each other, those that swing among them. Without it, the list
shows none of them. The format is that of MLflow 3.17's pages; versions that do not know it show
their default view.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from mlp.config import canonical_json, digest
from mlp.curve import Verdict
from mlp.engine.result import Ending
from mlp.settings import learning_rate_of, settings_of
from mlp.tracking import display, record
from mlp.tracking.display import LOSS_AT_END, explain_command, rerun_command, short_value
from mlp.tracking.picture import facts_of
from mlp.tracking.record import PICTURE_FILE, RunRecord

KEY, STUDY, TRIAL = "mlp.key", "mlp.study", "mlp.trial"
CONFIRMS = "mlp.confirms"  # of a network with the settings of that trial, which is no trial itself
EXPLAINS = "mlp.explains"  # of a rerun that explains that study or run

NOTE_TAG = "mlflow.note.content"  # what MLflow's pages show as description
VIEW_TAG = "mlflow.sharedViewState."  # and the view's name
PAGE_QUERY = "workflowType=machine_learning"  # else MLflow's pages are those for language models

_RATE = "optimizer.learning_rate"  # as it was drawn, with all of its digits
_ORDER = {
    "validation_accuracy": ("final_validation_accuracy", False),
    "training_loss": ("final_loss", True),
    "oscillation": ("amplitude", False),
}
_LARGEST_FILE = 16 * 1024 * 1024  # bytes
_PLAIN_KEY = re.compile(r"[\w./-]{1,250}")  # it is quoted in a filter
_RUN_ID = "RUN_ID"  # in a note, where MLflow's id of the run goes once it is known
_LISTING_FILE = "listing.json"
_CLOSED = ConfigDict(extra="forbid")


@checked_dataclass(frozen=True, config=_CLOSED)
class Label:
    """How one run is shown and found again.

    Attributes:
        name: what a person sees in lists.
        tags: further tags; `mlp.key`, if there, is what the run is found again by.
        parent: key of the run that it is shown below; None: of none.
    """

    name: str
    tags: dict[str, str]
    parent: str | None = None


@checked_dataclass(frozen=True, config=_CLOSED)
class Listing:
    """What MLflow shows of one run.

    Attributes:
        key: what the run is found again by.
        parent: key of the run that it is shown below; None: of none.
        name: what a person sees in lists.
        params: the settings, by their paths.
        points: name, value, milliseconds since 1970 and step of each point of a metric.
        note: Markdown; `RUN_ID` in it stands for MLflow's id.
        data: name, digest, source and profile of the data set, as MLflow takes them.
        started_ms: milliseconds since 1970 in UTC.
    """

    key: str
    parent: str | None
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[tuple[str, float, int, int]]
    note: str
    data: dict[str, str]
    started_ms: int
    ended_ms: int

    def note_of(self, run_id: str) -> str:
        """The note of the run with that id."""
        return self.note.replace(_RUN_ID, run_id)


@checked_dataclass(frozen=True, config=_CLOSED)
class StudyPage:
    """What the parent run of a study says from the start.

    Attributes:
        key: what the study's runs are found again by.
        config: its composed settings, plain values.
        description: Markdown for its page.
        searched: path of each setting that varies -> what it is drawn from, in words.
        view: of pages that earlier versions have written.
    """

    name: str
    key: str
    config: dict[str, Any]
    description: str
    searched: dict[str, Any] = field(default_factory=dict)
    view: Any = None


def label_of_trial(page: StudyPage, number: int, name: str, seed: int = 0) -> Label:
    """The label of a study's trial, or of a network with its settings and a further seed.

    Example:
        >>> label_of_trial(StudyPage("a", "a", {}, ""), 3, "#3").tags
        {'mlp.study': 'a', 'mlp.trial': '3', 'mlp.key': 'a/3'}
    """
    key = trial_key(page.key, f"{number}.seed{seed}" if seed else str(number))
    tags = {STUDY: page.name, CONFIRMS if seed else TRIAL: str(number), KEY: key}
    return Label(name, tags, study_key(page.key))


def trial_key(study_key: str, number: str) -> str:
    """What the run of a study's trial is found again by."""
    return checked_key(f"{study_key}/{number}")


def study_key(key: str) -> str:
    """What the parent run of a study is found again by."""
    return checked_key(f"{key}/study")


def explanation_key(key: str) -> str:
    """What the run of an explanation is found again by; its reruns are below it."""
    return checked_key(f"{key}/explain")


def checked_key(key: str) -> str:
    """The key, if it can be quoted in a filter."""
    if not _PLAIN_KEY.fullmatch(key):
        raise ValueError(
            f"a key must be made of letters, digits, '_', '.', '-', '/', but is {key!r}"
        )
    return key


def listing_of(run: RunRecord, label: Label) -> Listing:
    """What MLflow is to show of a run."""
    tags = {**display.tags(run), **label.tags, **display.environment_tags()}
    tags[KEY] = key = _key_of(run, label.tags)
    sizes = {"train": run.n_train, "validation": run.n_validation, "test": run.n_test}
    own = run.config.own
    name = own.program.file if own is not None else f"{run.config.data.name} 3-vs-7"
    return Listing(
        key=key,
        parent=label.parent,
        name=label.name,
        tags=tags,
        params={path: str(value) for path, value in settings_of(run.config).items()},
        points=_points_of(run),
        note=_note_of(run),
        data={
            "name": name,
            "digest": run.data_digest,
            "source": canonical_json({"data": run.config.data.name if own is None else name}),
            "profile": canonical_json(sizes),
        },
        started_ms=run.started_ms,
        ended_ms=run.ended_ms,
    )


def picture_link(file: str, run_id: str, words: str) -> str:
    """Markdown that shows a picture among a run's artifacts in MLflow's description of it.

    The address is relative: MLflow may be served below any other.
    """
    return f"![{words}](get-artifact?path={file}&run_uuid={run_id})"


def write_listing(folder: Path, listing: Listing) -> None:
    """Writes it beside the record."""
    (folder / _LISTING_FILE).write_bytes(_listings.dump_json(listing))


def read_listing(folder: Path) -> Listing:
    """Reads it back."""
    text = record.read_text(folder / _LISTING_FILE, _LARGEST_FILE)
    return record.read_json(text, _listings, source=_LISTING_FILE)


_listings = TypeAdapter(Listing)


def _key_of(run: RunRecord, tags: Mapping[str, str]) -> str:
    """What makes this run the same one when it is recorded again."""
    if KEY in tags:
        return checked_key(tags[KEY])
    parts = [record.config_json(run), run.started_ms, run.digests["weights_digest"]]
    return digest(parts)


def _points_of(run: RunRecord) -> list[tuple[str, float, int, int]]:
    """Its curves, as many points as MLflow's charts show, and the numbers of the whole run."""
    result = run.result
    curves = {
        "loss": (result.loss, result.loss_step),
        "validation_accuracy": (result.validation_accuracy, result.evaluated_step),
        "sharpness": (result.sharpness, result.sharpness_step),
        "stability_ratio": (result.stability_ratio, result.sharpness_step),
        **{
            display.metric_of(name): (v, result.loss_step)
            for name, v in (result.own.series if result.own else {}).items()
        },
    }
    points = []
    pace_ms = (run.ended_ms - run.started_ms) / max(1, result.last_step)
    for name, (values, steps) in curves.items():
        curve = display.thin(values, steps)
        # Each at the time that the training passed it, as far as that is known.
        points += [
            (name, value, run.started_ms + round(step * pace_ms), step)
            for value, step in zip(curve.value.tolist(), curve.step.tolist(), strict=True)
        ]
    known = display.shown_numbers(display.numbers(run))
    return points + [(name, value, run.ended_ms, 0) for name, value in known.items()]


def _note_of(run: RunRecord) -> str:
    """What came of a run, and how to train it again."""
    verdict = run.judgement.verdict
    came_of_it = f"**{run.judgement.words}**: {run.judgement.sentence}"
    if run.result.own is not None and run.result.own.fault is not None:
        came_of_it = f"**failed**: {run.result.own.fault}."
    facts = _as_sentence("; ".join(facts_of(run.config, run.result, run.judgement)))
    said = f"{came_of_it} {facts}."
    if run.result.ending is Ending.CRASHED:
        said = f"**crashed**: {Ending.CRASHED.sentence}"
    again = rerun_command(_RUN_ID, run.config)
    commands, offers = [again], ["the same again, bit for bit"]
    if rate := display.positive_rate(run.config):
        commands.append(f"{again} {learning_rate_of(run.config)}={rate / 2:.3g}")
        offers.append("the same with half its learning rate")
    if verdict not in (Verdict.LEARNING, Verdict.CONVERGED, Verdict.FAILED):
        commands.insert(0, explain_command(_RUN_ID, run.config))
        offers.insert(0, "what stops it")
    picture = picture_link(PICTURE_FILE, _RUN_ID, "the loss")
    return "\n\n".join([picture, said, f"{_as_sentence('; '.join(offers))}:", _block(commands)])


def _as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def study_note(
    verdicts: Sequence[Verdict],
    *,
    winner: str | None = None,
    picture: str = "",
    settings: Mapping[str, object] | None = None,
    commands: Sequence[str] = (),
) -> str:
    """What came of a study: verdicts, the best trial, its settings, what to type next.

    Args:
        winner: Markdown about the best trial; None where no run stayed finite.
        picture: Markdown that shows its losses; empty: none.

    Example:
        >>> print(study_note([Verdict.OSCILLATING, Verdict.STALLED, Verdict.STALLED]))
        **1 of 3 runs is oscillating**, 2 are stalled.
        <BLANKLINE>
        None of them came to its end with a finite loss.
    """
    counts = Counter(verdicts)
    n_oscillating = counts.pop(Verdict.OSCILLATING, 0)
    line = f"**{n_oscillating} of {len(verdicts)} runs {_are(n_oscillating)} oscillating**"
    line += "".join(f", {n} {_are(n)} {verdict.value}" for verdict, n in counts.most_common())
    if winner is None:
        return f"{line}.\n\nNone of them came to its end with a finite loss."
    parts = [f"{line}.", *([picture] if picture else []), winner, _block(commands)]
    if settings:
        parts.append(
            ", ".join(f"`{name}={short_value(value)}`" for name, value in settings.items())
        )
    return "\n\n".join(parts)


def run_link(experiment_id: str, run_id: str, name: str) -> str:
    """A link from one page of MLflow to that of a run.

    Example:
        >>> run_link("1", "0f", "#3 lr 0.5")
        '[#3 lr 0.5](#/experiments/1/runs/0f?workflowType=machine_learning)'
    """
    return f"[{name}](#/experiments/{experiment_id}/runs/{run_id}?{page_query(None)})"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _block(commands: Sequence[str]) -> str:
    return "\n".join(["```console", *commands, "```"])


def view_tag(page: StudyPage, created_ms: int, lowest: int = -4) -> tuple[str, str]:
    """The experiment's tag that holds the view of a study: its name and text.

    Args:
        created_ms: shown as the view's age, milliseconds since 1970 in UTC.
        lowest: power of ten at which the axis of the loss begins.
    """
    state = json.dumps({**_search(page), **_columns(page), **_charts(page, lowest)})
    saved = {"createdAt": created_ms, "updatedAt": created_ms, "state": state}
    text = json.dumps({"name": f"{page.name}: verdicts and loss", **saved})
    return VIEW_TAG + page.name, text


def page_query(study: str | None) -> str:
    """What comes after the `?` in the address of the list of runs; of a study with its view.

    Example:
        >>> page_query("smoke")
        'workflowType=machine_learning&viewStateShareKey=smoke'
    """
    return PAGE_QUERY if study is None else f"{PAGE_QUERY}&viewStateShareKey={study}"


def _search(page: StudyPage) -> dict[str, Any]:
    objective = page.config.get("study", {}).get("objective")  # a page of before may lack it
    metric, is_ascending = _ORDER.get(objective, (f"final_{objective}", False))
    return {
        "searchFilter": f"tags.`mlp.study` = '{page.name}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": is_ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _columns(page: StudyPage) -> dict[str, Any]:
    is_validated = page.config.get("data", {}).get("validation_fraction", 0) > 0
    numbers = ["final_validation_accuracy"] if is_validated else []
    numbers.append("amplitude")
    widths = {
        "attributes.`Run Name`": 230,
        "tags.`verdict`": 95,
        f"tags.`{LOSS_AT_END}`": 100,
        **{f"metrics.`{name}`": _width(name) for name in numbers},
        **{f"params.`{path}`": _width(path) for path in page.searched},
        "runDateAndNestInfo": 145,
        "duration": 80,
    }
    shown = [column for column in widths if "`" in column and "Run Name" not in column]
    return {"selectedColumns": shown, "columnOrder": list(widths), "columnWidths": widths}


def _width(name: str) -> int:
    """Of a column, in pixels: its heading is to be read as far as there is room for it."""
    return 165 if name == _RATE else min(135, 40 + 7 * len(name))


def _charts(page: StudyPage, lowest: int) -> dict[str, Any]:
    """Loss curves large on top, MLflow's own charts folded below."""
    ours, others = f"{page.name}-charts", f"{page.name}-others"
    chart = {"metricSectionId": ours, "deleted": False, "isGenerated": False}
    section = {"isReordered": False, "deleted": False}
    loss = {
        **chart,
        "uuid": f"{page.name}-loss",
        "type": "LINE",
        "metricKey": "loss",
        "selectedMetricKeys": ["loss"],
        "displayName": "loss",
        # Linear, a converged loss is a line at zero beside one that swings; and free, it may sink
        # to 1e-38 and press all others together. The bounds are powers of ten.
        "scaleType": "log",
        "range": {"yMin": lowest, "yMax": 3},
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "runsCountToCompare": 100,
    }
    return {
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            {
                **section,
                "uuid": ours,
                "name": "Loss",
                "display": True,
                "isGenerated": False,
                "columns": 1,
                "cardHeight": 460,
            },
            {
                **section,
                "uuid": others,
                "name": "Model metrics",
                "display": False,
                "isGenerated": True,
            },
        ],
        "compareRunCharts": [loss],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "groupBy": None,
    }

"""The runs of a study, listed: what MLflow shows of them, not their files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlp.tracking.store import Store, one_sentence

_OF_A_FILE = re.compile(r"-[0-9a-f]{8}")  # how a study's name goes on after that of its file
_PAGE = 1000


@dataclass(frozen=True)
class ListedRun:
    """A trial's run as MLflow lists it.

    Attributes:
        trial: its number in the study.
        run_id: MLflow's id of it.
        name: what a person sees.
        params: settings by their paths, as texts.
        metrics: last value of each.
        tags: all of them.
    """

    trial: int
    run_id: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def study_runs(store: Store, study: str) -> list[ListedRun]:
    """The finished runs of a study, by their trials' numbers; none where there is no such study.

    Args:
        store: where.
        study: its name, or that of its file for the newest study of it; letters, digits, `_`, `.`
            and `-`, because it is quoted in a filter.
    """
    with one_sentence(store.uri):
        parent = next(_parents(store, study), None)
        if parent is None:
            return []
        found = _pages(store, f"tags.`mlflow.parentRunId` = '{parent}' AND status = 'FINISHED'")
        listed = [_listed(run) for run in found if run.data.tags.get("mlp.trial", "").isdigit()]
    return sorted(listed, key=lambda run: run.trial)


def _parents(store: Store, study: str) -> Iterator[str]:
    """Ids of the parent runs of studies that are called so, the best fit and newest first."""
    for filter_string in (f"= '{study}'", f"LIKE '{study}-%'"):
        for run in _pages(store, f"tags.`mlp.study` {filter_string}"):
            tail = str(run.data.tags["mlp.study"]).removeprefix(study)
            is_parent = "mlp.trial" not in run.data.tags
            if is_parent and (not tail or _OF_A_FILE.fullmatch(tail)):
                yield str(run.info.run_id)


def _pages(store: Store, filter_string: str) -> Iterator[Any]:
    """Every run that fits, the newest first."""
    token = None
    while True:
        page = store.client.search_runs(
            [store.experiment_id],
            filter_string=filter_string,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _listed(run: Any) -> ListedRun:
    return ListedRun(
        trial=int(run.data.tags["mlp.trial"]),
        run_id=str(run.info.run_id),
        name=str(run.info.run_name),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )

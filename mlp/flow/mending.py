"""The doctor's repairs: what a sweep would do at its start or end, but without training."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlp.config import SweepConfig
from mlp.errors import RecordError
from mlp.flow.lock import only_driver
from mlp.tracking import spool

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.store import Store


def studies(storage: str) -> dict[str, int]:
    """The studies of a store and how many trials each has.

    Raises:
        MlpError: for a store that cannot be used.
    """
    from mlp.study.storage import one_sentence, open_storage, stored_studies  # imports Optuna

    with one_sentence(storage):
        return stored_studies(open_storage(storage))


def left_running(config: SweepConfig) -> dict[str, str | None]:
    """Id of each run that says RUNNING -> its study; nothing is made.

    Raises:
        MlpError: for a store that cannot be used.
    """
    from mlp.tracking import runs
    from mlp.tracking.retry import patiently
    from mlp.tracking.store import find_store

    store = patiently(lambda: find_store(config.base.tracking))
    return runs.left_running(store) if store else {}


def end_runs(config: SweepConfig, run_ids: Sequence[str]) -> str:
    """Ends runs that nobody works on; a second run of the same trial goes.

    Raises:
        MlpError: for a store that cannot be used.
    """
    from mlp.tracking import runs

    store = _opened(config)
    for run_id in run_ids:
        runs.end_stale(store, run_id)
    return f"{len(run_ids)} runs ended"


def publish_study(config: SweepConfig, folder: Path) -> str:
    """Publishes the trials, or networks of further seeds, that wait in a folder of a study.

    Those that the study itself does not have yet stay for the sweep to go on with.

    Raises:
        MlpError: for a store that cannot be used, or a study that somebody holds.
    """
    from mlp.tracking import runs

    with only_driver(folder.parent, spool.study_of(folder)):
        page = spool.page_of(folder)
        stored = _stored(config, page.name, is_of_seeds=spool.is_of_seeds(folder))
        places = [place for number, place in spool.waiting(folder) if number in stored]
        n_published, damaged = 0, []
        if places:
            store = _opened(config)
            parent = runs.find_study(store, page.key)
            if parent is None:
                parent = runs.start_study(
                    store,
                    name=page.name,
                    key=page.key,
                    settings=page.config,
                    searched=page.searched,
                    tags={},
                    description=page.description,
                )
                runs.finish(store, parent, "KILLED")  # until the sweep says how it ends
            for place in places:
                try:
                    _publish(store, place, parent)
                    n_published += 1
                except RecordError as error:
                    damaged.append(f"{place.name} ({error})")
        n_left = len(list(spool.waiting(folder))) - len(damaged)
        spool.clear(folder)
    what = "networks" if spool.is_of_seeds(folder) else "trials"
    said = f"{n_published} {what} published"
    if n_left:
        said += f"; {n_left} are not in the study yet: the same sweep command goes on with them"
    if damaged:
        said += f"; damaged, the same sweep command trains them again: {', '.join(damaged)}"
    return said


def publish_singles(config: SweepConfig) -> str:
    """Publishes the runs that belong to no study.

    Raises:
        MlpError: for a store that cannot be used, or a run that cannot be read.
    """
    store, folder = _opened(config), spool.folder_of_runs()
    places = [place for _, place in spool.waiting(folder)]
    for place in places:
        _publish(store, place, None)
    spool.clear(folder)
    return f"{len(places)} runs published"


def clear(top: Path, folder: Path) -> str:
    """Removes what a sweep that was killed has left, unless somebody works on it by now.

    Raises:
        BusyError: for a study that somebody holds.
    """
    with only_driver(top, spool.study_of(folder)):
        spool.clear(folder)
    return f"{folder} removed"


def _stored(config: SweepConfig, study: str, *, is_of_seeds: bool) -> Collection[int]:
    """Numbers of the trials that a study has, or of the further seeds whose test it has noted."""
    if not is_of_seeds:
        return range(studies(config.study.storage).get(study, 0))
    from mlp.study.storage import one_sentence, open_storage, stored_looks

    with one_sentence(config.study.storage):
        looks = stored_looks(open_storage(config.study.storage), study)
    return {look["trial"] * spool.MOST_SEEDS + look["seed"] for look in looks if "seed" in look}


def _publish(store: "Store", place: Path, parent: str | None) -> None:
    from mlp.tracking import runs

    kept = spool.take(place)
    label = kept.label
    runs.publish_run(store, kept.record, parent=parent, name=label.name, tags=label.tags)
    spool.drop(place)


def _opened(config: SweepConfig) -> "Store":
    from mlp.tracking.retry import patiently
    from mlp.tracking.store import open_store

    return patiently(lambda: open_store(config.base.tracking))

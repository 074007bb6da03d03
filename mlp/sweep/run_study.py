"""A study from Python: opened or continued, trained to its end, its winner named; or rehearsed."""

import dataclasses
import time
from typing import Any

from rich.console import Console

from mlp.addresses import mask, resolve
from mlp.config import SweepConfig
from mlp.data.dataset import Dataset, load
from mlp.errors import AllDivergedError
from mlp.settings import with_settings
from mlp.study import search
from mlp.study.identity import check_study, identity, study_name, tracking_key
from mlp.study.lock import only_driver
from mlp.study.search import Search
from mlp.study.space import flat
from mlp.study.storage import (
    Storage,
    close_storage,
    open_storage,
    storage_faults,
    storage_in_memory,
)
from mlp.sweep.generation import (
    Session,
    note_outage,
    publish_leftovers,
    restore_missing,
    standing_of,
    train_generation,
)
from mlp.sweep.rehearsal import Rehearsal, rehearse, render_rehearsal
from mlp.sweep.winner import StudyEnd, how_to_go_on, name_winner, unpublished
from mlp.terminal.compose import Settings, own_study_files, study_config
from mlp.terminal.screen import meter, say, silent, waiting
from mlp.tracking import spool
from mlp.tracking.publish import Publisher
from mlp.tracking.spool import StudyPage
from mlp.tracking.view import StudyView
from mlp.training.executor import open_executor
from mlp.training.outcome import parts_of


def run_study(
    study: str | SweepConfig = "accuracy",
    settings: Settings | None = None,
    *,
    console: Console | None = None,
) -> StudyEnd:
    """Runs a study to its end, or goes on with it, as `python -m mlp.sweep` does.

    Args:
        study: name of a study file, shipped or in `./sweeps`; or a config.
        settings: what differs from the file; `study.space` replaces the whole space.
        console: where progress and results are shown, such as `rich.get_console()`; None: nowhere.

    Raises:
        SettingError: for a setting or space that breaks a law.
        AllDivergedError: if no run stayed finite; they are tracked all the same.
        MlpError: for data or stores that cannot be used, or a tracking store that did not take all
            runs; what was trained is kept, and the same call goes on.

    Example:
        >>> import mlp
        >>> end = mlp.run_study("smoke", {"training.steps": 30})
        >>> end.n_trials, end.best_trial in range(4)
        (4, True)
        >>> mlp.load_study(end.name)["trial"].tolist()
        [0, 1, 2, 3]
    """
    config, console = _config(study, settings), console or silent()
    check_study(config)
    resolve(config.base.tracking)  # an address that cannot work is refused before anything is made
    storage = open_storage(config.study.storage)
    try:
        with storage_faults(config.study.storage):
            end = _run(config, storage, console)
    finally:
        close_storage(storage)
    if end.n_finite == 0:
        raise AllDivergedError("all runs went non-finite; lower the learning rates of the space")
    return end


def rehearse_study(
    study: str | SweepConfig = "accuracy",
    settings: Settings | None = None,
    *,
    console: Console | None = None,
) -> Rehearsal:
    """Finds out what a study would be, as `study.dry_run=true` shows it; leaves nothing behind.

    Args:
        study: as of `run_study`.
        settings: likewise.
        console: where it is shown; None: nowhere.

    Raises:
        SettingError: as `run_study`.

    Example:
        >>> import mlp
        >>> plan = mlp.rehearse_study("smoke", {"training.steps": 30})
        >>> plan.n_trials, sorted(plan.domains)
        (4, ['gradient.normalization', 'optimizer.learning_rate'])
    """
    config, console = _config(study, settings), console or silent()
    check_study(config)
    config, data = _load(config, storage_in_memory(), console)
    with waiting(console, "training for two seconds"):
        rehearsal = rehearse(config, data)
    say(console, *render_rehearsal(rehearsal, config, data))
    return rehearsal


def _config(study: str | SweepConfig, settings: Settings | None) -> SweepConfig:
    if isinstance(study, SweepConfig):
        return study
    return study_config(study, settings)


def _run(config: SweepConfig, storage: Storage, console: Console) -> StudyEnd:
    """The sweep with its store open."""
    config, data = _load(config, storage, console)
    what = identity(config, data.name, data.digest)
    folder = spool.folder_of(config.study.storage)
    with (
        only_driver(folder, study_name(config, what), config.study.storage) as still_held,
        open_executor(config.base.execution, notice=lambda line: say(console, line)) as executor,
    ):
        related = search.related_study(storage, config, what)
        opened = search.open_search(storage, config, what)
        _announce(console, config, opened, data, related)
        page = _page(config, opened, tracking_key(config, what))
        place = folder / opened.name
        spool.put_page(place, page)
        try:
            with Publisher(config.base.tracking, page) as publisher:
                session = Session(config, data, opened, page, place, publisher, console)
                session.executor, session.still_held = executor, still_held
                end = _conduct(session)
        finally:
            spool.clear(place)
            spool.clear(spool.of_seeds(place))
    if publisher.problem is not None:
        raise publisher.problem  # all is trained and kept, but a script must know
    return end


def _conduct(session: Session) -> StudyEnd:
    """Trains what is missing and names the winner; the parent run's status is true afterwards."""
    try:
        n_earlier = len(search.rows(session.search))
        publish_leftovers(session)
        _train_all(session)
        restore_missing(session, n_earlier)
        return name_winner(session)
    except (KeyboardInterrupt, BrokenPipeError):
        session.publisher.give_up("KILLED")
        say(session.console, how_to_go_on(session), *unpublished(session))
        raise
    except BaseException:
        session.publisher.finish("FAILED")
        raise


def _load(config: SweepConfig, storage: Storage, console: Console) -> tuple[SweepConfig, Dataset]:
    """The data, and the config with their name in it; a continued study keeps what it had."""
    wanted = config.base.data
    if wanted.name == "auto" and (name := search.known_data(storage, config)):
        wanted = with_settings(config.base, {"data.name": name}).data
        other = "mnist" if name == "digits" else "digits"
        say(
            console,
            f"data=auto stays {name}, which this study began with; data={other} makes another one",
        )
    data = load(wanted, notice=lambda line: say(console, line))
    base = with_settings(config.base, {"data.name": data.name})
    return dataclasses.replace(config, base=base), data


def _announce(
    console: Console,
    config: SweepConfig,
    opened: Search,
    data: Dataset,
    related: tuple[str, list[str]] | None,
) -> None:
    n_done, n_planned = len(search.rows(opened)), search.n_planned(opened)
    n_trials, steps = max(n_done, n_planned), config.base.training.steps
    state = "new" if opened.is_new else "complete" if n_done >= n_planned else "continued"
    lines = [
        f"study {opened.name} ({state}): {n_trials} trials of {steps} steps, "
        f"{config.study.sampler} for {config.study.objective}",
        *search.size_note(config.study, n_planned),
        parts_of(data),
        f"search in {mask(config.study.storage)}, runs in {mask(resolve(config.base.tracking))}",
    ]
    if config.study.file in own_study_files():
        lines.append(f"./sweeps/{config.study.file}.yaml is used in place of the shipped one")
    if opened.is_new and related:
        shown = "; ".join(related[1][:3]) + ("; ..." if len(related[1]) > 3 else "")
        lines.append(f"not the same study as {related[0]}: {shown}")
    if state == "complete":
        most = 2 * n_done if opened.points is None else min(2 * n_done, len(opened.points))
        extension = f"study.n_trials={most} would extend it"
        lines.append(f"nothing to train; {extension if most > n_done else 'the list is done'}")
    say(console, *lines)


def _train_all(session: Session) -> None:
    started = time.monotonic()
    timeout_s = session.config.study.timeout_s
    standing = standing_of(session)
    with meter(session.console, standing.n_done) as shown:
        shown.training(standing, 0.0)
        while True:
            with session.timed("ask"):
                trials = search.ask(session.search)
            if not trials:
                return
            # Every call trains one generation at least, so that a study comes to its end.
            is_first = standing.n_done == shown.first_done
            if timeout_s and not is_first and time.monotonic() - started > timeout_s:
                say(session.console, f"study.timeout_s is over: {how_to_go_on(session)}")
                return
            train_generation(session, trials, standing, shown)
            _note_seconds(session, trials[0].number // session.config.study.generation)
            standing = standing_of(session)
            shown.stored(standing)
            note_outage(session)


def _note_seconds(session: Session, generation: int) -> None:
    """Where the time of a generation went, as metrics of the parent run at its number."""
    spent = {f"seconds_{what}": value for what, value in session.seconds.items()}
    session.seconds.clear()
    idle = session.executor.idle_share() if session.executor is not None else None
    if idle is not None:
        spent["idle_share"] = idle
    session.publisher.describe(metrics=spent, tags={}, step=generation)


def _page(config: SweepConfig, opened: Search, key: str) -> StudyPage:
    """What MLflow is told of the study before its first run."""
    study, base = config.study, config.base
    searched = {entry.path: flat(study.space)[entry.path] for entry in opened.space}
    view = StudyView(
        name=study.name or study.file,
        study=opened.name,
        objective=study.objective,
        searched=tuple(searched),
        is_validated=base.data.validation_fraction > 0,
    )
    return StudyPage(
        name=opened.name,
        key=key,
        config=_plain(config),
        searched=searched,
        view=view,
        description=f"The study {opened.name} goes on, or was stopped; no winner yet.",
    )


def _plain(config: SweepConfig) -> dict[str, Any]:
    """The config as it is recorded: every setting, no password."""
    values = dataclasses.asdict(config.base)
    study = dataclasses.asdict(config.study)
    uri = config.base.tracking.uri
    tracking = {**values["tracking"], "uri": uri and mask(uri)}
    storage = mask(config.study.storage)
    return {**values, "tracking": tracking, "study": {**study, "storage": storage}}

"""A study from Python: opened or continued, trained to its end, its winner named; or rehearsed."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from mlp.addresses import mask, resolve
from mlp.config import RUN_GROUPS, Explain, ExplainConfig, SweepConfig
from mlp.data.dataset import Dataset, examples_for, parts_of
from mlp.errors import AllDivergedError, counted
from mlp.settings import with_settings
from mlp.study import search
from mlp.study.identity import TrialRow, check_study, identity, study_name, tracking_key
from mlp.study.lock import only_driver
from mlp.study.search import Search
from mlp.study.space import describe_entry
from mlp.study.storage import Storage, opened_storage, storage_in_memory
from mlp.sweep.generation import Keeper, restore_missing, train_generation, upload_leftovers
from mlp.sweep.rehearsal import Rehearsal, rehearse, render_rehearsal
from mlp.sweep.winner import StudyEnd, how_to_go_on, name_winner, not_uploaded
from mlp.terminal.compose import Settings, own_study_files, settings_for, study_config
from mlp.terminal.screen import Standing, meter, say, silent, waiting
from mlp.tracking import spool
from mlp.tracking.display import own_file
from mlp.tracking.drain import Drain, study_below
from mlp.tracking.listing import StudyPage
from mlp.tracking.record import RunRecord, program_values
from mlp.training.train_runs import open_executor
from mlp.training.work import Executor


def run_study(
    study: str | SweepConfig | None = None,
    settings: Settings | None = None,
    *,
    train: Callable[..., Any] | None = None,
    console: Console | None = None,
) -> StudyEnd:
    """Runs a study to its end, or goes on with it, as `python -m mlp.sweep` does.

    Where runs of a study that is complete oscillate, or most end badly, reruns say which settings
    make them, for at most as long as the study was trained; `study.explain=false` leaves that out.

    Args:
        study: name of a study file, shipped or in `./sweeps`; or a config. None: `accuracy`, and
            of an own function `own`.
        settings: what differs from the file; `study.space` replaces the whole space.
        train: your own training function in the place of the built-in network, written in a file.
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
    config, console = _config(study, settings, train), console or silent()
    check_study(config)
    resolve(config.base.tracking)  # an address that cannot work is refused before anything is made
    with _opened_study(config, console) as (opened, data, where, keeper):
        n_earlier = len(search.rows(opened))
        upload_leftovers(opened, data, where, keeper)
        best = _train_all(opened, data, where, keeper, console=console)
        restore_missing(opened, n_earlier, data, where, keeper=keeper)
        end = name_winner(opened, data, where, keeper, best=best, console=console)
    if end.n_finite == 0:
        raise AllDivergedError(
            "all runs went non-finite; lower the learning rates of the space"
            if config.base.own is None
            else "no run came to its end with a finite loss; its page in MLflow says what it met"
        )
    is_bad = end.n_oscillating > 0 or 2 * end.n_bad > end.n_trials
    if config.study.explain and end.is_complete and is_bad:
        with waiting(console, "loading what explains it"):  # which no other sweep needs
            from mlp.explain.explain_study import explain_study

        local = ExplainConfig(local=config.base, explain=Explain())
        found = explain_study(end.name, local, console=console, is_after_sweep=True)
        end = dataclasses.replace(end, explanation=found)
    if end.commands:
        say(console, "next:", *(f"  {line}" for line in end.commands))
    return end


def rehearse_study(
    study: str | SweepConfig | None = None,
    settings: Settings | None = None,
    *,
    train: Callable[..., Any] | None = None,
    console: Console | None = None,
) -> Rehearsal:
    """Finds out what a study would be, as `study.dry_run=true` shows it; leaves nothing behind.

    It takes what `run_study` takes, and refuses the same.

    Example:
        >>> import mlp
        >>> plan = mlp.rehearse_study("smoke", {"training.steps": 30})
        >>> plan.n_trials, sorted(plan.domains)
        (4, ['gradient.normalization', 'optimizer.learning_rate'])
    """
    config, console = _config(study, settings, train), console or silent()
    check_study(config)
    config, data = _load(config, storage_in_memory(), console)
    with waiting(console, "training for two seconds"):
        rehearsal = rehearse(config, data)
    say(console, *render_rehearsal(rehearsal, config, data))
    return rehearsal


def _config(
    study: str | SweepConfig | None,
    settings: Settings | None,
    train: Callable[..., Any] | None,
) -> SweepConfig:
    if isinstance(study, SweepConfig):
        return study
    named = {} if train is None else settings_for(train)
    own = "own.file" in {**named, **(settings or {})}
    return study_config(study or ("own" if own else "accuracy"), {**named, **(settings or {})})


@contextmanager
def _opened_study(
    config: SweepConfig, console: Console
) -> Iterator[tuple[Search, Dataset, Executor, Keeper]]:
    """All that a sweep works with; closed at the end, the status of its run in MLflow true.

    Raises:
        MlpError: at the end, if the tracking store did not take all runs; they are kept.
    """

    def notice(line: str) -> None:
        say(console, line)

    url = config.study.storage
    with opened_storage(url) as storage:
        config, data = _load(config, storage, console)
        what, folder = identity(config, data.name, data.digest), spool.folder_of(url)
        with (
            only_driver(folder, study_name(config, what), url) as still_held,
            open_executor(config.base.execution, notice=notice) as where,
        ):
            related = search.related_study(storage, config, what)
            opened = search.open_search(storage, config, what)
            _announce(console, config, opened, data, related)
            page = _page(config, opened, tracking_key(config, what))
            place = folder / opened.name
            spool.put_page(place, page)
            try:
                with Drain(page.key, lambda: study_below(config.base.tracking, page)) as drain:
                    keeper = Keeper(page, place, drain, notice, still_held)
                    try:
                        yield opened, data, where, keeper
                    except (KeyboardInterrupt, BrokenPipeError):
                        drain.give_up("KILLED")
                        say(console, how_to_go_on(opened, keeper), *not_uploaded(opened, keeper))
                        raise
                    except BaseException:
                        drain.finish("FAILED")
                        raise
            finally:
                spool.clear(place)
        if drain.problem is not None:
            raise drain.problem  # all is trained and kept, but a script must know


def _train_all(
    opened: Search,
    data: Dataset,
    where: Executor,
    keeper: Keeper,
    *,
    console: Console,
) -> RunRecord | None:
    """Trains generation after generation; gives the record of the best trial, if it is of these."""
    started, timeout_s = time.monotonic(), opened.config.timeout_s
    standing, best_record = _standing(opened, search.rows(opened)), None
    was_away = False
    with meter(console, standing.n_done) as shown:
        shown.training(standing, 0.0)
        while trials := search.ask(opened):
            # Every call trains one generation at least, so that a study comes to its end.
            is_first = standing.n_done == shown.first_done
            if timeout_s and not is_first and time.monotonic() - started > timeout_s:
                say(console, f"study.timeout_s is over: {how_to_go_on(opened, keeper)}")
                break
            records = train_generation(
                opened,
                trials,
                data,
                where,
                keeper=keeper,
                progress=functools.partial(shown.training, standing),
            )
            if (idle := where.idle_share()) is not None:  # on a cluster
                number = trials[0].number // opened.config.generation
                keeper.drain.describe(metrics={"idle_share": idle}, step=number)
            table = search.rows(opened)
            best = search.best_of(table, opened.objective)
            if best is not None and best.number in records:
                best_record = records[best.number]
            standing = _standing(opened, table)
            shown.stored(standing)
            problem = keeper.drain.problem
            if problem is not None and not was_away:
                keeper.notice(f"{problem}; the sweep goes on, and its runs are kept")
            if problem is None and was_away:
                keeper.notice("the tracking store is back")
            was_away = problem is not None
    return best_record


def _standing(opened: Search, table: Sequence[TrialRow]) -> Standing:
    """How far the study is, by what is stored."""
    best, name = search.best_of(table, opened.objective), search.superlative(opened.objective)
    return Standing(
        n_done=len(table),
        n_planned=search.n_planned(opened),
        best=f"{name} {best.value:.4f} (trial {best.number})" if best else "",
        verdicts=Counter(row.verdict for row in table),
    )


def _load(config: SweepConfig, storage: Storage, console: Console) -> tuple[SweepConfig, Dataset]:
    """The data, and the config with their name in it; a continued study keeps what it had."""
    wanted = config.base
    is_own = wanted.own is not None
    if not is_own and wanted.data.name == "auto" and (name := search.known_data(storage, config)):
        wanted = with_settings(wanted, {"data.name": name})
        other = "mnist" if name == "digits" else "digits"
        say(
            console,
            f"data=auto stays {name}, which this study began with; data={other} makes another one",
        )
    with waiting(console, "loading the data"):
        base, data = examples_for(wanted, notice=lambda line: say(console, line))
    return dataclasses.replace(config, base=base), data


def _announce(
    console: Console,
    config: SweepConfig,
    opened: Search,
    data: Dataset,
    related: tuple[str, list[str]] | None,
) -> None:
    n_done, n_planned = len(search.rows(opened)), search.n_planned(opened)
    n_trials, own = max(n_done, n_planned), config.base.own
    of_what = counted(config.base.training.steps, "step") if own is None else own_file(own)
    state = "new" if opened.is_new else "complete" if n_done >= n_planned else "continued"
    lines = [
        f"study {opened.name} ({state}): {counted(n_trials, 'trial')} of {of_what}, "
        f"{config.study.sampler} for {config.objective}",
        *search.size_note(config.study, n_planned),
        *([parts_of(data)] if own is None else []),
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


def _page(config: SweepConfig, opened: Search, key: str) -> StudyPage:
    """What MLflow is told of the study before its first run."""
    return StudyPage(
        name=opened.name,
        key=key,
        config=_plain(config),
        searched={entry.path: describe_entry(entry) for entry in opened.space},
        description=f"The study {opened.name} goes on, or was stopped; no winner yet.",
    )


def _plain(config: SweepConfig) -> dict[str, Any]:
    """The config as it is recorded: every setting, no password."""
    base = config.base
    values = {name: dataclasses.asdict(getattr(base, name)) for name in RUN_GROUPS if name != "own"}
    if base.own is not None:  # what it does not depend on says nothing
        values = {group: values[group] for group in ("tracking", "execution")}
        values["own"] = {**base.own.arguments, "program": program_values(base.own.program)}
        values["training"] = {"seed": base.training.seed}
    values["study"] = dataclasses.asdict(config.study)
    values["study"]["storage"] = mask(config.study.storage)
    values["tracking"]["uri"] = base.tracking.uri and mask(base.tracking.uri)
    return values

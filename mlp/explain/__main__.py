"""`python -m mlp.explain [STUDY, RUN_ID or FILE.py]`: what makes the loss oscillate, by reruns."""

import functools
import sys

from mlp.addresses import resolve, sqlite_path
from mlp.config import ExplainConfig, RunConfig
from mlp.errors import MissingInputError, SettingError, one_line
from mlp.program import NAMED_FILE
from mlp.settings import read_explain
from mlp.terminal.compose import (
    completes_names,
    compose,
    typed_settings,
)
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal, waiting

_EXAMPLES = {
    "": "the last study: which settings make its runs oscillate, and the report page",
    "seed-420718b3 explain.timeout_s=600": "a study by its name, for ten minutes at most",
    "seed-420718b3 explain.verdict=stalled": "which settings make its runs stall",
    "RUN_ID": "one run: why it ends badly, and the smallest change that stops it",
    "RUN_ID explain.apply=true": "the same, and the repaired run is tracked beside it",
    "FILE.py own.rate=0.5": "your own training function: trained, tracked, and why it ends badly",
    "EXPERIMENT metric=train_loss map.lr=optimizer.learning_rate data.name=digits": (
        "runs of another program: which metric is the loss, what a param stands for, "
        "and what no param says"
    ),
}
_WHAT = (
    "Says which settings make the loss of a study's runs oscillate, or end badly otherwise, and "
    "proves it by reruns."
)
_TYPED = ("explain", "tracking", "execution", "data.root")
_MAP = "map."  # before a param's name


def _explain() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        first = "[STUDY, RUN_ID, FILE.py or EXPERIMENT]"
        print(usage("explain", _WHAT, _EXAMPLES, first_word=first, only=_TYPED))
        return
    if completes_names("explain", arguments, _names_that_begin):
        return
    which = None
    if arguments and "=" not in arguments[0]:
        which, *arguments = arguments
    if which is not None and NAMED_FILE.fullmatch(which):
        quoted = which.replace("'", "\\'")
        config, console = _read([f"own.file='{quoted}'", *arguments]), Terminal()
        with waiting(console, "loading MLflow"):
            from mlp.explain.repair_run import explain_function

        explain_function(config, console=console)
    else:
        run_explain(which, _read(arguments))


def _names_that_begin(typed: str) -> list[str]:
    """Studies, experiments and runs of the default store that a shell may complete."""
    from mlp.tracking.read import known_names, short_ids  # imports MLflow
    from mlp.tracking.store import find_store

    store = find_store(RunConfig().tracking)
    if store is None:
        return []
    names = [name for name in known_names(store) if name.startswith(typed)]
    return [*names, *(short_ids(store, typed) if typed else [])]


def _read(arguments: list[str]) -> ExplainConfig:
    """The settings as typed; those of what was trained hold where runs do not say them."""
    names = [word.removeprefix(_MAP).split("=", 1) for word in arguments if word.startswith(_MAP)]
    for name, *path in names:
        if not path or not name:
            raise SettingError(f"map.{one_line(name)} must say what it stands for: map.lr=SETTING")
    overrides = [word for word in arguments if not word.startswith(_MAP)]
    overrides = [f"explain.{word}" if word.startswith("metric=") else word for word in overrides]
    values = compose("explain", overrides)
    values["explain"]["map"] |= dict(names)
    return read_explain(values, typed_settings(overrides, values))


def run_explain(which: str | None, config: ExplainConfig) -> None:
    """Explains a study or a single run, and shows the answer.

    Args:
        which: a study's name, the id of a run or of a study's parent run, or an experiment's name;
            None: the last study.
    """
    path = sqlite_path(resolve(config.local.tracking))
    if path is not None and not path.exists():
        raise MissingInputError(f"there is no store {path}; python -m mlp.sweep makes one")
    if which is not None and not which.isprintable():
        raise SettingError(f"a name must be printable, but is {one_line(which)!r}")

    console = Terminal()
    with waiting(console, "loading MLflow"):
        from mlp.tracking.read import is_run_id, is_tracked_run, meant_run
        from mlp.tracking.store import open_store

    if which is not None:
        store = open_store(config.local.tracking)
        which = meant_run(store, which)
        if is_run_id(which) and is_tracked_run(store, which):
            from mlp.explain.experiment import check_given
            from mlp.explain.repair_run import repair_run

            check_given(config, is_brought=False)
            repair_run(which, config, console=console)
            return
    from mlp.explain.explain_study import explain_study

    explain_study(which, config, console=console)


main = functools.partial(run_command, _explain)

if __name__ == "__main__":
    main()

"""`python -m mlp.explain [STUDY or RUN_ID]`: which settings make the loss oscillate, by reruns."""

import re
import sys

from mlp.addresses import resolve, sqlite_path
from mlp.config import RESULT_GROUPS, ExplainConfig
from mlp.errors import MissingInputError, SettingError, one_line
from mlp.settings import read_explain
from mlp.terminal.compose import compose, typed_settings
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal

_EXAMPLES = {
    "": "the last study: which settings make its runs oscillate, and the report page",
    "seed-420718b3 explain.timeout_s=600": "a study by its name, for ten minutes at most",
    "RUN_ID": "one run: why it oscillates, and the smallest change that stops it",
    "RUN_ID explain.apply=true": "the same, and the repaired run is tracked beside it",
}
_WHAT = "Says which settings make the loss of a study's runs oscillate, and proves it by reruns."
_ROOT = "data.root"  # the one setting of what is trained that says where, not what
_TYPED = ("explain", "tracking", "execution", _ROOT)


def main() -> None:
    """The command."""
    run_command(_explain)


def _explain() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(usage("explain", _WHAT, _EXAMPLES, first_word="[STUDY or RUN_ID]", only=_TYPED))
        return
    which = None
    if arguments and "=" not in arguments[0]:
        which, *arguments = arguments
    run_explain(which, _read(arguments))


def _read(overrides: list[str]) -> ExplainConfig:
    """The settings as typed; what was trained is read from the runs and cannot be typed."""
    values = compose("explain", overrides)
    fixed = sorted(set(typed_settings(overrides, RESULT_GROUPS, values)) - {_ROOT})
    if fixed:
        raise SettingError(
            f"{fixed[0]} is read from the runs that are explained and cannot be typed here; "
            "python -m mlp.rerun RUN_ID changes a setting of a run"
        )
    return read_explain(values)


def run_explain(which: str | None, config: ExplainConfig) -> None:
    """Explains a study or a single run, and shows the answer.

    Args:
        which: a study's name, the id of a run or of a study's parent run, or an experiment's name;
            None: the last study.
        config: how much may be trained, and where.
    """
    path = sqlite_path(resolve(config.local.tracking))
    if path is not None and not path.exists():
        raise MissingInputError(f"there is no store {path}; python -m mlp.sweep makes one")
    if which is not None and not which.isprintable():
        raise SettingError(f"a name must be printable, but is {one_line(which)!r}")

    from mlp.tracking.read import is_study  # MLflow, so not before it is needed
    from mlp.tracking.store import open_store

    console = Terminal()
    is_id = which is not None and re.fullmatch(r"[0-9a-f]{32}", which) is not None
    if is_id and which is not None and not is_study(open_store(config.local.tracking), which):
        from mlp.explain.repair_run import repair_run

        repair_run(which, config, console=console)
    else:
        from mlp.explain.explain_study import explain_study

        explain_study(which, config, console=console)


if __name__ == "__main__":
    main()

"""`python -m mlp.rerun RUN_ID`: trains a tracked run again; does it come out the same?"""

import re
import sys

from mlp.api.network import rerun_network
from mlp.config import RESULT_GROUPS, RUN_GROUPS, RunConfig
from mlp.door import read_run, with_settings
from mlp.errors import SettingError, one_line
from mlp.settings import settings_of
from mlp.terminal.compose import compose, typed_settings
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal

_EXAMPLES = {
    "RUN_ID": "trains it again: identical, or the first step or weight that differs",
    "RUN_ID optimizer.learning_rate=0.1": "with a setting changed: what came out differently",
}

DIFFERENT = 1  # exit code, as of cmp and diff

# Whether these fit together only the original's other settings can tell.
_JOINT = (
    "model.depth",
    "model.widths",
    "model.activation",
    "gradient.derivative",
    "training.shift",
)


def main() -> None:
    """The command."""
    run_command(_rerun)


def _rerun() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        what = "Trains a tracked run again from its own record; exits with 1 if it differs."
        print(usage("rerun", what, _EXAMPLES, first_word="RUN_ID"))
        return
    if not arguments:
        raise SettingError("the id of a run is missing: python -m mlp.rerun RUN_ID")
    run_id, *overrides = arguments
    if "=" in run_id:
        raise SettingError(f"the id of a run comes first, but there is {run_id!r}")
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise SettingError(f"a run id must be 32 hex digits, but is {one_line(run_id)!r}")
    values = compose("train", overrides)
    typed_in = typed_settings(overrides, RESULT_GROUPS, values)
    changed = {path: typed_in[path] for path in settings_of(RunConfig()) if path in typed_in}
    with_settings(RunConfig(), {k: v for k, v in changed.items() if k not in _JOINT})
    local = {"data": {"root": values["data"]["root"]}}
    local |= {group: values[group] for group in RUN_GROUPS if group not in RESULT_GROUPS}
    rerun = rerun_network(run_id, changed, local=read_run(local), console=Terminal())
    if not rerun.is_as_expected:
        sys.exit(DIFFERENT)


if __name__ == "__main__":
    main()

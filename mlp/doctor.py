"""`python -m mlp.doctor`: looks for what is wrong around the sweeps of a folder, and mends it."""

import sys

from rich.console import Console

from mlp.config import SweepConfig
from mlp.door import read_sweep
from mlp.errors import MlpError, SettingError, one_line
from mlp.flow.checkup import check_up
from mlp.flow.finding import FIX, Finding
from mlp.terminal.compose import compose
from mlp.terminal.console import run_command
from mlp.terminal.screen import Terminal, say
from mlp.tracking.store_uri import mask

WRONG = 1  # exit code

_USAGE = f"""usage: python -m mlp.doctor [fix=true] [setting=value ...]

Looks at the study store, the tracking store, the spool of runs that wait for MLflow, locks, runs
left RUNNING, the data, free space, versions and threads; says what is wrong and what to type.
Exits with 1 where something is wrong.

examples:
  python -m mlp.doctor
      the stores of this folder
  {FIX}
      and does the repairs that do no harm: publishes what waits, ends runs of processes that are
      gone
  python -m mlp.doctor study.storage=sqlite:///other.db tracking.uri=http://127.0.0.1:5000
      other stores, by the settings of python -m mlp.sweep"""


def main() -> None:
    """The command."""
    run_command(_doctor)


def _doctor() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return
    overrides = [word for word in arguments if not word.startswith("fix=")]
    fixes = [word for word in arguments if word.startswith("fix=")]
    if not set(fixes) <= {"fix=true", "fix=false"}:
        raise SettingError(f"fix must be true or false, but there is {one_line(fixes[0])!r}")
    config = read_sweep(compose("sweep", overrides))
    if not run_doctor(config, Terminal(), fix="fix=true" in fixes):
        sys.exit(WRONG)


def run_doctor(config: SweepConfig, console: Console, *, fix: bool) -> bool:
    """Shows every finding, and mends what can be mended without harm.

    Args:
        config: where the stores and the data are.
        console: where the findings are shown.
        fix: whether to mend.

    Returns:
        Whether all is well in the end.
    """
    is_well = True
    for finding in check_up(config):
        say(console, f"{'wrong' if finding.remedy else 'ok':<6}{finding.what}: {finding.said}")
        if not finding.remedy:
            continue
        if fix and finding.repair is not None:
            is_well &= _mended(finding, console)
        else:
            is_well = False
            say(console, f"      {finding.remedy}")
    return is_well


def _mended(finding: Finding, console: Console) -> bool:
    assert finding.repair is not None
    try:
        say(console, f"fixed {finding.what}: {finding.repair()}")
    except MlpError as error:
        say(console, f"      not fixed: {one_line(mask(str(error)))}")
        return False
    return True


if __name__ == "__main__":
    main()

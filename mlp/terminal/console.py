"""What every command shares on the screen: one sentence for an error, an exit code, a help text."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from mlp import __version__
from mlp.errors import MlpError, SystemLimitError, one_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_stopped_by: list[int] = []  # the first signal, once it has come


class StoppedError(KeyboardInterrupt):
    """Somebody or the system asks the process to end; the work in hand may be put in order.

    Attributes:
        exit_code: 128 and the signal's number, as shells report it.
    """

    def __init__(self, number: int) -> None:
        """Notes which signal came."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; a fault ends the process with its exit code, a signal with 128 and its own.

    A fault is one line on stderr, never a traceback; what is not an `MlpError` is a bug of this
    package and keeps its traceback. The first Ctrl-C, SIGTERM or SIGHUP lets the command put its
    things in order, the second ends the process at once.
    """
    _stopped_by.clear()
    told_before, sys.unraisablehook = sys.unraisablehook, _raise_again
    heard = {
        number: signal.signal(number, _first_signal)
        for number in _SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        if sys.platform not in ("linux", "darwin"):
            raise SystemLimitError(
                f"only Linux and macOS are supported, but this is {sys.platform}"
            )
        if sys.argv[1:] == ["--version"]:
            print(f"mlp-sweep {__version__}")
        else:
            command()
        sys.stdout.flush()
    except MlpError as error:
        from mlp.addresses import mask  # slow, as in `usage`: not every command needs a config

        print(f"error: {one_line(mask(str(error)), most=2000)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        if not _stopped_by:
            raise  # by nobody from outside
        # Ray raises one of its own in the place of StoppedError.
        stopped = error if isinstance(error, StoppedError) else StoppedError(_stopped_by[0])
        notes = getattr(error, "__notes__", [])  # what was kept, say
        print("; ".join([f"ended by {stopped}", *notes]), file=sys.stderr)
        sys.stdout.flush()
        os._exit(stopped.exit_code)  # threads that wait for a server are not waited for
    except BrokenPipeError:
        # Nobody reads any more (`| head`): Python must not try to flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    finally:
        sys.unraisablehook = told_before
        for number, handler in heard.items():
            signal.signal(number, handler)


def _first_signal(number: int, _frame: object) -> NoReturn:
    for each in _SIGNALS:
        if signal.getsignal(each) is _first_signal:
            signal.signal(each, _second_signal)
    _stopped_by.append(number)
    raise StoppedError(number)


def _raise_again(swallowed: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised in a weak reference's callback or a `__del__`: not a signal."""
    if swallowed.exc_type is StoppedError:
        signal.signal(signal.SIGALRM, _overdue_signal)
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # by then the callback is over
    else:
        sys.__unraisablehook__(swallowed)


def _overdue_signal(_number: int, _frame: object) -> NoReturn:
    raise StoppedError(_stopped_by[0])


def _second_signal(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)


def usage(
    command: str,
    what: str,
    examples: Mapping[str, str],
    *,
    first_word: str = "",
    only: Sequence[str] = (),
) -> str:
    """The help text of a command: what it does, examples, groups and settings.

    Args:
        examples: arguments -> what they do.
        first_word: what comes before the settings, such as `RUN_ID`; then it is no Hydra
            application.
        only: groups, or settings, that can be typed; empty: all.
    """
    from mlp.settings import default_settings, setting_choices, setting_paths
    from mlp.study.space import typed
    from mlp.terminal.compose import group_options, study_files

    call = f"python -m mlp.{command}"
    groups = "" if first_word else " [group=option ...]"
    lines = [f"usage: {call}{f' {first_word}' if first_word else ''}{groups} [setting=value ...]"]
    lines += ["", what, "", "examples:"]
    for arguments, text in examples.items():
        lines += [f"  {call} {arguments}".rstrip(), f"      {text}"]
    if not first_word:
        lines += ["", "groups and their options:"]
        lines += [f"  {group}: {', '.join(names)}" for group, names in group_options().items()]
    if command == "sweep":
        lines += [f"  sweeps: {', '.join(sorted(study_files()))}"]
    lines += ["", "settings, with their defaults in the schema:"]
    defaults, texts = default_settings(command), setting_paths(command)
    choices = setting_choices(command)
    if only:
        texts = {p: s for p, s in texts.items() if p in only or p.partition(".")[0] in only}
    width = max(len(path) for path in texts)
    for path, text in texts.items():
        lines.append(f"  {path:<{width}}  {text} ({typed(defaults[path])})")
        if path in choices:
            lines.append(f"  {'':<{width}}  one of {', '.join(choices[path])}")
    if not first_word:
        lines += ["", "Hydra's own flags (--cfg job, --info, --multirun, ...): --hydra-help"]
    return "\n".join(lines)

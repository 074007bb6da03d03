"""What every command shares: one line for a fault, its exit code, a help that is complete."""

import signal
import subprocess
import sys
from importlib import import_module
from itertools import pairwise

import pytest

from mlp import __main__ as entry
from mlp import errors
from mlp.config import RunConfig
from mlp.settings import setting_choices, setting_paths
from mlp.terminal.compose import group_options, study_files
from mlp.terminal.console import run_command, usage
from mlp.tracking.display import rerun_command
from support.sweeping import environment_of_commands

FAULTS = [
    (errors.SettingError, 2),
    (errors.DataError, 65),
    (errors.RecordError, 65),
    (errors.MissingInputError, 66),
    (errors.UnavailableError, 69),
    (errors.SystemLimitError, 71),
    (errors.StoreError, 74),
    (errors.BusyError, 75),
    (errors.AllDivergedError, 1),
]


def fails_with(error):
    def command():
        raise error

    return command


def ended(error, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(fails_with(error))
    shown = capsys.readouterr()
    assert shown.out == ""
    return caught.value.code, shown.err


@pytest.mark.parametrize(("kind", "code"), FAULTS)
def test_a_fault_is_one_line_and_its_exit_code(kind, code, capsys):
    assert ended(kind("what is wrong"), capsys) == (code, "error: what is wrong\n")


def test_the_table_above_knows_every_fault():
    assert {kind for kind, _ in FAULTS} == set(errors.MlpError.__subclasses__())


def test_a_fault_is_one_line_whatever_it_says(capsys):
    _, shown = ended(errors.StoreError("two\nlines\x1b[31m and \x07 a bell"), capsys)
    assert shown == "error: two lines?[31m and ? a bell\n"


def test_a_fault_shows_no_password(capsys):
    _, shown = ended(errors.StoreError("cannot open postgresql://ann:secret@host/db"), capsys)
    assert shown == "error: cannot open postgresql://ann:***@host/db\n"


def test_signals_are_handled_as_before_when_a_command_has_ended(capsys):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    ended(errors.StoreError("what is wrong"), capsys)
    run_command(lambda: None)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_a_library_reports_as_its_own_interrupt_keeps_its_code(number):
    """As Ray's `wait` does: a handler's exception is lost there, and a bare one raised."""
    script = (
        "import os\n"
        "from mlp.terminal.console import StoppedError, run_command\n"
        "def command():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    except StoppedError:\n"
        "        raise KeyboardInterrupt from None\n"
        "run_command(command)\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=environment_of_commands(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, f"ended by {number.name}\n")


def test_a_signal_says_what_was_kept():
    script = """
import os, signal
from mlp.terminal.console import run_command
def command():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt as stopped:
        stopped.add_note("the run is kept")
        raise
run_command(command)
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=environment_of_commands(), capture_output=True, text=True)
    assert done.stderr == "ended by SIGTERM; the run is kept\n"


@pytest.mark.parametrize("where", ["a weak reference's callback", "__del__"])
def test_a_signal_that_python_drops_is_raised_again(where):
    """What is raised in such a place is printed by Python, and reaches nobody."""
    script = f"""
import os, signal, time, weakref
from mlp.terminal.console import run_command
class Thing:
    pass
def send(_):
    os.kill(os.getpid(), signal.SIGTERM)
if {where!r} == "__del__":
    Thing.__del__ = send
thing = Thing()
callback = None if hasattr(Thing, "__del__") else weakref.ref(thing, send)
def command():
    global thing
    del thing
    while True:
        time.sleep(0.01)
run_command(command)
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(
        words, env=environment_of_commands(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (143, "ended by SIGTERM\n")


def test_faults_of_a_library_become_sentences_by_their_kind():
    table = {
        KeyError: lambda error: errors.StoreError(f"no {error}"),
        LookupError: lambda error: None if "bug" in str(error) else errors.DataError("elsewhere"),
    }
    for raised, kind, sentence in (
        (KeyError("a"), errors.StoreError, "no 'a'"),
        (IndexError("b"), errors.DataError, "elsewhere"),
        (IndexError("a bug"), IndexError, "a bug"),
        (ValueError("c"), ValueError, "c"),
    ):
        with pytest.raises(kind, match=sentence), errors.translated(table):
            raise raised


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(fails_with(ZeroDivisionError()))


def test_other_systems_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.platform", "win32")
    code, shown = ended(AssertionError("must not be reached"), capsys)
    assert code == 71
    assert shown == "error: only Linux and macOS are supported, but this is win32\n"


def test_a_command_that_ends_well_says_nothing(capsys):
    run_command(lambda: None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["train", "sweep", "explain"])
def test_the_help_names_every_setting_group_and_example(command):
    text = usage(command, "Does it.", {"a=1": "sets a"})
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for path, what in setting_paths(command).items():
        assert what in lines[path]
    offered = dict(pairwise(text.splitlines()))
    for path in setting_paths(command):
        words = setting_choices(command).get(path, ())
        below = offered.get(lines[path], "")
        assert below.strip().startswith("one of ") == bool(words)
        assert not words or below.strip() == f"one of {', '.join(words)}"
    assert setting_choices(command)["gradient.normalization"] == ("sum", "mean", "unit", "clip")
    for group, names in group_options().items():
        assert f"  {group}: {', '.join(names)}" in text.splitlines()
    assert ("  sweeps: " + ", ".join(sorted(study_files())) in text) == (command == "sweep")
    assert f"python -m mlp.{command} a=1\n      sets a" in text


def test_the_help_of_a_command_with_a_first_word_names_no_groups():
    text = usage("rerun", "Does it.", {}, first_word="RUN_ID")
    assert text.startswith("usage: python -m mlp.rerun RUN_ID [setting=value ...]")
    assert "groups and their options" not in text
    assert "--multirun" not in text


def test_a_value_is_shown_short_and_on_one_line():
    for value in ("a" * 500, 16**5000, [10**5000], "a\nb\x1b", [[]] * 100):
        shown = errors.shown(value)
        assert len(shown) <= 80
        assert shown.isprintable()


@pytest.mark.parametrize(("error", "text"), [(ValueError(), "ValueError"), ("  a \n b", "a b")])
def test_one_line(error, text):
    assert errors.one_line(error) == text
    assert len(errors.one_line("x" * 1000, most=10)) == 10


def test_one_script_starts_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mlp-sweep", "judge", "--help"])
    with pytest.raises(SystemExit):
        entry.main()
    assert capsys.readouterr().out.startswith("usage: python -m mlp.judge")
    for name in entry._COMMANDS:
        module = f"mlp.{name}.__main__" if name in entry._PACKAGES else f"mlp.{name}"
        assert callable(import_module(module).main)


def test_script_offers_itself_and_the_nearest_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mlp-sweep", "swep"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.err == "error: there is no command 'swep'; did you mean 'sweep'?\n"
    assert shown.out.startswith("usage: mlp-sweep COMMAND")
    assert rerun_command("0f", RunConfig()) == "mlp-sweep rerun 0f"
    monkeypatch.setattr(sys, "argv", ["-m"])
    assert rerun_command("0f", RunConfig()) == "python -m mlp.rerun 0f"

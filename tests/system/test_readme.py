"""The README, typed from its first command to its last, and whether what it names is there."""

import contextlib
import functools
import re
import shutil
from pathlib import Path

import pytest

from mlp.curve import Verdict
from mlp.terminal.compose import compose
from mlp.terminal.yaml_files import group_options, study_files
from support.reader import HAS_MNIST, ROOT, Reader
from support.reading import steps, words_of_code
from support.sweeping import tracked

README = (ROOT / "README.md").read_text()
STEPS = steps(README)


@pytest.fixture(scope="module")
def reader(tmp_path_factory, made_store):
    folder = tmp_path_factory.mktemp("readme") / "digits"
    folder.mkdir()
    shutil.copy(made_store, folder / "mlflow.db")
    with contextlib.ExitStack() as servers:
        yield Reader(STEPS, folder, servers)


@pytest.mark.parametrize(
    "number", range(len(STEPS)), ids=[f"{s.line}: {s.text.splitlines()[0]}" for s in STEPS]
)
def test_step_works(reader, number):
    step = STEPS[number]
    said = reader.follow(number)
    is_refused = any(line.startswith("error: ") for line in step.shown)
    assert said.code == (2 if is_refused else 0), said.text


@pytest.mark.skipif(not HAS_MNIST, reason="the README shows MNIST: set MLP_DATA_ROOT")
@pytest.mark.parametrize(
    "number",
    [number for number, step in enumerate(STEPS) if step.shown],
    ids=[f"{s.line}: {s.text.splitlines()[0]}" for s in STEPS if s.shown],
)
def test_what_the_readme_shows_is_what_is_printed(reader, number):
    """Line for line but for numbers and paths; of what was shortened, up to the first gap."""
    reader.follow(number)
    shown = list(STEPS[number].shown)
    if reader.was_changed[number]:
        shown = shown[: shown.index("...")] if "..." in shown else []
    assert [line for line in shown if line in reader.missing[number]] == []


def test_all_commands_are_among_the_steps():
    """The way from the README's text to what is run loses nothing."""
    typed = re.findall(r"python -m mlp\.(\w+)", README)
    assert {"sweep", "train", "rerun", "explain", "doctor"} <= set(typed)
    found = " ".join(step.text for step in STEPS)
    assert {name: typed.count(name) for name in set(typed)} == {
        name: len(re.findall(rf"python -m mlp\.{name}\b", found)) for name in set(typed)
    }


LOOKED_AT = re.compile(r"^(?:ok|wrong) +([\w ]+):", re.MULTILINE)


def test_doctor_looks_at_what_the_readme_lists(reader):
    [number] = (n for n, step in enumerate(STEPS) if "ok    locks" in " ".join(step.shown))
    said = reader.follow(number).text
    shown = "\n".join(STEPS[number].shown)
    assert len(re.findall(LOOKED_AT, shown)) > 5
    assert set(re.findall(LOOKED_AT, shown)) <= set(re.findall(LOOKED_AT, said))


# What is between backticks


def test_settings_and_files_between_backticks_exist(reader):
    """A word with a dot, a slash or an equals sign is the name of something that there is."""
    reader.follow(len(STEPS) - 1)
    named = {w for w in words_of_code(README) if re.fullmatch(r"[\w./\[\]-]+(::\w+|=[^\s()]+)?", w)}
    named = {w for w in named if re.search(r"[./=]", w.strip("."))}
    assert len(named) > 50
    assert sorted(word for word in named if not exists(word, reader.folder)) == []


def exists(word: str, folder: Path) -> bool:
    name, equals, value = word.partition("=")
    if name in group_options() or name == "sweeps":
        return value == "NAME" or value in (*group_options().get(name, ()), *study_files())
    if equals or is_setting(name):
        return is_setting(name)
    return is_test(word) or is_file(word, folder) or is_tag(word, folder)


@functools.cache
def settings() -> dict[str, dict[str, object]]:
    return compose("sweep", []) | compose("explain", [])


def is_setting(name: str) -> bool:
    """Whether a command takes it: a setting of ours, one of doctor's, or one of Hydra's."""
    group, _, setting = re.sub(r"\[\w+\]$", "", name).partition(".")
    return name in ("hydra.verbose", "fix") or setting in settings().get(group, ())


def is_test(word: str) -> bool:
    file, _, name = word.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and f"def {name}" in path.read_text()


def is_file(word: str, folder: Path) -> bool:
    """Of the repository, of the package, one that the reader has now, or one of a bad day."""
    if (ROOT / word).exists() or (ROOT / "mlp" / word).exists() or (folder / word).exists():
        return True
    if any(folder.rglob(word)):
        return True
    source = "".join(file.read_text() for file in (ROOT / "mlp").rglob("*.py"))
    stem, dot, suffix = word.rpartition(".")
    return f'"{word}"' in source or ((folder / stem).is_file() and f"{dot}{suffix}" in source)


def is_tag(word: str, folder: Path) -> bool:
    return any(word in run.tags for run in tracked(folder))


def test_pictures_and_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 3
    assert [t for t in targets if not t.startswith("http") and not (ROOT / t).is_file()] == []


def test_map_of_the_code_is_the_code():
    table = README.partition("## Map of the code")[2]
    rows = re.findall(r"^\| `(.+?)` \|", table, re.M)
    named = {word.strip("/") for row in rows for word in row.split()}
    there = {path.stem for path in (ROOT / "mlp").iterdir() if (path / "__init__.py").is_file()}
    there |= {path.stem for path in (ROOT / "mlp").glob("*.py")}
    assert named == {name for name in there if not name.startswith("__")}


def test_verdicts_are_all_explained():
    table = README.partition("## What a verdict says")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [str(verdict) for verdict in Verdict]

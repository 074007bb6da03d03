"""README and docs, typed from the first command to the last, and whether what they name is there.

The README is typed once in a session. Each page of docs is typed in a copy of the folder that its
reader has at the end, by whichever worker.
"""

import contextlib
import functools
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import mlp
from mlp.curve import Verdict
from mlp.terminal.compose import compose, group_options, study_files
from support.reader import HAS_MNIST, ROOT, Reader
from support.reading import Step, steps, words_of_code
from support.sweeping import command, tracked
from support.world import copy, once, root_of

README = "README.md"
TEXTS = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in (ROOT / README, *sorted((ROOT / "docs").glob("*.md")))
}
STEPS = {page: steps(text) for page, text in TEXTS.items()}


@pytest.fixture(scope="module")
def reader_of(tmp_path_factory, made_store):
    """Who has typed a page, or is at it."""
    with contextlib.ExitStack() as servers:

        def type_readme(folder: Path) -> None:
            shutil.copy(made_store, folder / "mlflow.db")
            reader = Reader(STEPS[README], folder, servers)
            reader.follow(len(reader.steps) - 1)
            reader.keep(folder.with_suffix(".typed"))

        @functools.cache
        def reader(page: str) -> Reader:
            typed = once(root_of(tmp_path_factory), "digits", type_readme)
            first = Reader(STEPS[README], typed, servers)
            first.take(typed.with_suffix(".typed"))
            if page == README:
                return first
            folder = tmp_path_factory.mktemp("reader") / "digits"
            folder.mkdir()
            other = Reader(STEPS[page], copy(typed, folder), servers, first.names)
            other.known = dict(first.known)
            return other

        yield reader


def each_step(is_meant: Callable[[Step], bool]) -> pytest.MarkDecorator:
    found = [
        pytest.param(page, number, id=f"{page}:{step.line}: {step.text.splitlines()[0]}")
        for page, steps_of_page in STEPS.items()
        for number, step in enumerate(steps_of_page)
        if is_meant(step)
    ]
    return pytest.mark.parametrize(("page", "number"), found)


@each_step(lambda _: True)
def test_step_works(reader_of, page, number):
    step = STEPS[page][number]
    said = reader_of(page).follow(number)
    is_refused = any(line.startswith("error: ") for line in step.shown)
    assert said.code == (2 if is_refused else 0), said.text


@pytest.mark.skipif(not HAS_MNIST, reason="the README shows MNIST: set MLP_DATA_ROOT")
@each_step(lambda step: bool(step.shown))
def test_what_a_page_shows_is_what_is_printed(reader_of, page, number):
    """Line for line but for numbers and paths; of what was shortened, up to the first gap."""
    reader = reader_of(page)
    reader.follow(number)
    shown = list(STEPS[page][number].shown)
    if reader.was_changed[number]:
        shown = shown[: shown.index("...")] if "..." in shown else []
    assert [line for line in shown if line in reader.missing[number]] == []


@pytest.mark.parametrize("page", TEXTS)
def test_all_commands_are_among_the_steps(page):
    """The way from a page's text to what is run loses nothing."""
    typed = re.findall(r"python -m mlp\.(\w+)", TEXTS[page])
    found = " ".join(step.text for step in STEPS[page])
    assert {name: typed.count(name) for name in set(typed)} == {
        name: len(re.findall(rf"python -m mlp\.{name}\b", found)) for name in set(typed)
    }


def test_every_command_is_typed_somewhere():
    typed = re.findall(r"python -m mlp\.(\w+)", " ".join(TEXTS.values()))
    assert {"sweep", "train", "rerun", "explain", "doctor", "audit"} <= set(typed)


LOOKED_AT = re.compile(r"^(?:ok|wrong) +([\w ]+):", re.MULTILINE)


@each_step(lambda step: "ok    locks" in " ".join(step.shown))
def test_doctor_looks_at_what_the_page_lists(reader_of, page, number):
    said = reader_of(page).follow(number).text
    shown = "\n".join(STEPS[page][number].shown)
    assert len(re.findall(LOOKED_AT, shown)) > 5
    assert set(re.findall(LOOKED_AT, shown)) <= set(re.findall(LOOKED_AT, said))


# What is between backticks


@pytest.mark.parametrize("page", TEXTS)
def test_settings_and_files_between_backticks_exist(reader_of, page):
    """A word with a dot, a slash or an equals sign is the name of something that there is."""
    reader = reader_of(page)
    reader.follow(len(STEPS[page]) - 1)
    missing = [word for word in named_in(page) if not exists(word, reader.folder)]
    fences = "".join(re.findall(r"^```.*?^```", TEXTS[page], re.M | re.S))
    beside = (ROOT / page).parent
    # The files beside the page, and those that it says how to make
    assert sorted(w for w in missing if not (beside / w).exists() and w not in fences) == []


def test_many_things_are_named():
    assert sum(len(named_in(page)) for page in TEXTS) > 50


def named_in(page: str) -> set[str]:
    words = words_of_code(TEXTS[page])
    named = {w for w in words if re.fullmatch(r"[\w./\[\]-]+(::\w+|=[^\s()]+)?", w)}
    return {w for w in named if re.search(r"[./=]", w.strip("."))}


def exists(word: str, folder: Path) -> bool:
    name, equals, value = word.partition("=")
    if name in group_options() or name == "sweeps":
        return value == "NAME" or value in (*group_options().get(name, ()), *study_files())
    if equals or is_setting(name):
        return is_setting(name) or is_option(name)
    if re.fullmatch(r"mlp\.\w+", word) and (find_spec(word) or hasattr(mlp, word[4:])):
        return True
    return is_test(word) or is_file(word, folder) or is_tag(word, folder)


@functools.cache
def settings() -> dict[str, dict[str, object]]:
    return compose("sweep", []) | compose("explain", [])


def is_setting(name: str) -> bool:
    """Whether a command takes it: a setting of ours, one of doctor's, or one of Hydra's."""
    group, _, setting = re.sub(r"\[\w+\]$", "", name).partition(".")
    if group == "own" and re.search(rf"^def \w+\([^)]*\b{setting}\b", own_functions(), re.M):
        return True
    return name in ("hydra.verbose", "fix") or setting in settings().get(group, ())


@functools.cache
def own_functions() -> str:
    """The code that pages show, and the examples: their functions' arguments are settings too."""
    files = [file.read_text() for file in (ROOT / "examples").glob("*.py")]
    return "\n".join([*TEXTS.values(), *files])


def is_option(name: str) -> bool:
    """Whether a command that takes options of its own shows it in its help."""
    return re.search(rf"(?<![\w.]){re.escape(name)}[= ]", helps()) is not None


@functools.cache
def helps() -> str:
    return "".join(command(name, "--help").stdout for name in ("judge", "audit", "explain"))


def is_test(word: str) -> bool:
    file, _, name = word.partition("::")
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if path.match(file)]
    return len(found) == 1 and f"def {name}" in found[0].read_text()


def is_file(word: str, folder: Path) -> bool:
    """Of the repository, of the package, one that the reader has now, or one of a bad day."""
    if (ROOT / word).exists() or (ROOT / "mlp" / word).exists() or (folder / word).exists():
        return True
    if any(folder.rglob(word)) or any((ROOT / "scripts").glob(word)):
        return True
    source = "".join(file.read_text() for file in (ROOT / "mlp").rglob("*.py"))
    stem, dot, suffix = word.rpartition(".")
    return f'"{word}"' in source or ((folder / stem).is_file() and f"{dot}{suffix}" in source)


def is_tag(word: str, folder: Path) -> bool:
    """Whether some run has a tag, or a curve, of that name."""
    return any(word in run.tags or word in run.metrics for run in tracked(folder))


@pytest.mark.parametrize("page", TEXTS)
def test_pictures_and_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", TEXTS[page])
    here = (ROOT / page).parent
    assert page != README or len(targets) > 3
    assert [t for t in targets if not t.startswith("http") and not (here / t).exists()] == []


def test_map_of_the_code_is_the_code():
    table = TEXTS[README].partition("## Map of the code")[2]
    rows = re.findall(r"^\| `(.+?)` \|", table, re.M)
    named = {word.strip("/") for row in rows for word in row.split()}
    there = {path.stem for path in (ROOT / "mlp").iterdir() if (path / "__init__.py").is_file()}
    there |= {path.stem for path in (ROOT / "mlp").glob("*.py")}
    assert named == {name for name in there if not name.startswith("__")}


def test_verdicts_are_all_explained():
    tables = [re.findall(r"^\| `(\w+)` \|", text, re.M) for text in TEXTS.values()]
    verdicts = [str(verdict) for verdict in Verdict]
    found = [[word for word in table if word in verdicts] for table in tables]
    assert verdicts in found

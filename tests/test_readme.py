"""The README, typed from its first command to its last, and whether what it names is there."""

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from reading import Said, pairs_of_names, run_code, run_module, steps, words_of_code
from servers import free_port, running
from sweeping import environment_of_commands, tracked

from mlp.curve import Verdict
from mlp.terminal.compose import compose, group_options, study_files

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
STEPS = steps(README)
HAS_MNIST = bool(os.environ.get("MLP_DATA_ROOT"))

# Minutes become seconds; the first run of the default study oscillates all the same.
SHORT_STUDY = ("study.n_trials=4", "study.generation=4", "training.steps=100")
IF_ASKED_FOR = {"study.confirm_seeds": 2, "training.sharpness_points": 2}
SHORT_REASONS = ("explain.timeout_s=1",)
# What a line of Python takes for granted, as expressions; its reader has done this.
GIVEN = {
    "mlp": "__import__('mlp')",
    "mlflow": "__import__('mlflow.pyfunc')",
    "np": "__import__('numpy')",
    "frame": "__import__('pandas').DataFrame([[8] * 64], dtype='uint8')",
}


class Reader:
    """Types the README in a folder, and remembers the names of the runs that came of it."""

    def __init__(self, folder: Path, servers: contextlib.ExitStack) -> None:
        self.folder, self.servers = folder, servers
        self.names: dict[str, str] = {}  # as the README has them -> as they are here
        self.said: list[Said] = []
        self.was_changed: list[bool] = []
        self.missing: list[list[str]] = []
        programs = Path(sys.executable).parent
        nowhere = "http://127.0.0.1:9"  # where nobody listens: without network
        self.environment = environment_of_commands() | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "no_proxy": "127.0.0.1,localhost",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Ten more processes that evaluate language models
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def follow(self, number: int) -> Said:
        """Types all steps up to one, as far as that is not yet done."""
        while len(self.said) <= number:
            step = STEPS[len(self.said)]
            text = self.own(step.text)
            rule = next(r for r in RULES if r.kind == step.kind and re.match(r.pattern, text))
            said = rule.run(self, text)
            names, missing = pairs_of_names(step.shown, said.text)
            self.names = names | self.names  # a name stands for what it first was
            self.said.append(said)
            self.missing.append(missing)
            self.was_changed.append(bool(rule.why))
        return self.said[number]

    def own(self, text: str) -> str:
        """A text of the README with the names that things have here."""
        for shown, here in self.names.items():
            text = text.replace(shown, here)
        if "RUN_ID" in text:
            runs = [run for run in tracked(self.folder) if "verdict" in run.tags]
            if text.startswith("python"):  # one that there is something to say of
                runs = [run for run in runs if run.tags["verdict"] == Verdict.OSCILLATING] or runs
            text = text.replace("RUN_ID", runs[-1].run_id)
        return text


def shell(reader: Reader, text: str) -> Said:
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=reader.folder,
        env=reader.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return Said(done.returncode, done.stdout)


def module(reader: Reader, text: str, *further: str) -> Said:
    """`python -m`, in a process that need not import the libraries anew."""
    words = shlex.split(text)[2:]
    if not HAS_MNIST:
        words = ["data=digits" if word == "data=mnist" else word for word in words]
    return run_module([*words, *further], reader.folder, reader.environment)


def short_study(reader: Reader, text: str) -> Said:
    further = list(SHORT_STUDY)
    name = next((w.partition("=")[2] for w in text.split() if w.startswith("sweeps=")), "")
    file = (ROOT / "sweeps" / f"{name}.yaml").read_text() if name in study_files() else ""
    for setting, few in IF_ASKED_FOR.items():
        if setting.partition(".")[2] in file + text:
            further.append(f"{setting}={few}")
    if "name: mnist" in file and not HAS_MNIST:
        further.append("data.name=digits")
    return module(reader, text, *further)


def short_explanation(reader: Reader, text: str) -> Said:
    return module(reader, text, *SHORT_REASONS)


def composed(reader: Reader, text: str) -> Said:
    return module(reader, text, "--cfg", "job")


def its_help(reader: Reader, text: str) -> Said:
    return module(reader, text, "--help")


def installs(_reader: Reader, text: str) -> Said:
    """Whether what is to be installed is there: files, extras, and names as pip takes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = iter(shlex.split(text)[4:])
    for word in words:
        if word == "-c":
            assert (ROOT / next(words)).is_file()
        elif word == "-e":
            extras = Requirement(next(words).replace(".", project["name"], 1)).extras
            assert extras <= set(project["optional-dependencies"])
        else:
            assert Requirement(word).name
    return Said(0, "")


def the_tests(_reader: Reader, _text: str) -> Said:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    assert Path(__file__).parent.name in settings["ini_options"]["testpaths"]
    return Said(0, "")


def mlflow_ui(reader: Reader, text: str) -> Said:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", *shlex.split(text), "--port", port, "--workers", "1"]
    with running(words, reader.folder, f"{url}/health", environment=reader.environment):
        return Said(0, page(url))


def serve_model(reader: Reader, text: str) -> Said:
    """Stays up for what the README asks it next, in the place of the one before."""
    reader.servers.close()
    [shown] = re.findall(r"--port (\d+)", text)
    port = str(free_port())
    words = [sys.executable, "-m", *shlex.split(text.replace(shown, port))]
    url = f"http://127.0.0.1:{port}"
    server = running(words, reader.folder, f"{url}/health", environment=reader.environment)
    reader.servers.enter_context(server)
    reader.names[f"127.0.0.1:{shown}"] = f"127.0.0.1:{port}"
    return Said(0, "")


def dashboard(reader: Reader, text: str) -> Said:
    program, storage = shlex.split(text)
    if shutil.which(program, path=reader.environment["PATH"]) is None:
        return shell(reader, f"optuna studies --storage {storage}")
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    words = [program, storage, "--port", port]
    with running(words, reader.folder, url, environment=reader.environment):
        return Said(0, page(url))


def python(reader: Reader, text: str) -> Said:
    return run_code(text, {}, reader.folder, reader.environment)


def call(reader: Reader, text: str) -> Said:
    return run_code(text, GIVEN, reader.folder, reader.environment)


def save(reader: Reader, text: str) -> Said:
    file = reader.folder / text.splitlines()[0].removeprefix("# ./")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return Said(0, "")


def page(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


@dataclass(frozen=True)
class Rule:
    """How to run what begins like the pattern; `why` says why not as it stands."""

    kind: str
    pattern: str
    run: Callable[[Reader, str], Said]
    why: str = ""


RULES = (
    Rule("command", r"python -m pip install ", installs, "It needs an index of packages."),
    Rule("command", r"python -m pytest", the_tests, "It is what runs this."),
    Rule("command", r"mlflow ui", mlflow_ui, "It stays up, so it is ended after its page."),
    Rule("command", r"mlflow models serve ", serve_model, "It stays up; the next steps ask it."),
    Rule(
        "command",
        r"optuna-dashboard ",
        dashboard,
        "It stays up, and is no dependency: without it Optuna's own command opens the same store.",
    ),
    Rule(
        "command",
        r"python -m mlp\.sweep .*HOST",
        composed,
        "It needs a cluster and two servers: its settings are checked, test_cluster.py runs them.",
    ),
    Rule(
        "command",
        r"python -m mlp\.bench",
        its_help,
        "It takes minutes and an extra; test_bench.py runs a part of it.",
    ),
    Rule("command", r"python -m mlp\.sweep .*study\.dry_run=true", module),
    Rule("command", r"python -m mlp\.sweep", short_study, "It takes up to ten minutes."),
    Rule("command", r"python -m mlp\.explain", short_explanation, "It takes up to ten minutes."),
    Rule("command", r"python -m mlp\.doctor", module, "The README shows another folder's faults."),
    Rule("command", r"python -m mlp\b", module),
    Rule("command", r"", shell),
    Rule("python", r"", python),
    Rule("call", r"", call),
    Rule("file", r"", save),
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory, made_store):
    folder = tmp_path_factory.mktemp("readme") / "digits"
    folder.mkdir()
    shutil.copy(made_store, folder / "mlflow.db")
    with contextlib.ExitStack() as servers:
        yield Reader(folder, servers)


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

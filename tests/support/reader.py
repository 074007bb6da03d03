"""A reader who types a page in a folder; what cannot be typed in a test, and what is instead."""

import contextlib
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from mlp.curve import Verdict
from mlp.terminal.compose import study_files
from support.reading import Said, Step, pairs_of_names, run_code, run_module
from support.servers import QUIET_MLFLOW, free_port, running
from support.sweeping import environment_of_commands, tracked

ROOT = Path(__file__).resolve().parents[2]
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
    """Types a page in a folder, and remembers the names of the runs that came of it."""

    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        servers: contextlib.ExitStack,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.steps, self.folder, self.servers = steps, folder, servers
        self.names = dict(names or {})  # as the page has them -> as they are here
        self.known: dict[str, Said] = {}  # what was typed, here or in the README: not typed twice
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
            **QUIET_MLFLOW,
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def keep(self, file: Path) -> None:
        """Writes down what was typed and said, for readers in other processes."""
        typed = (self.names, self.known, self.said, self.was_changed, self.missing)
        file.write_bytes(pickle.dumps(typed))

    def take(self, file: Path) -> None:
        """Reads what another one has typed of this page."""
        typed = pickle.loads(file.read_bytes())
        self.names, self.known, self.said, self.was_changed, self.missing = typed

    def follow(self, number: int) -> Said:
        """Types all steps up to one, as far as that is not yet done."""
        while len(self.said) <= number:
            step = self.steps[len(self.said)]
            text = self.own(step.text)
            rule = next(r for r in RULES if r.kind == step.kind and re.match(r.pattern, text))
            words = " ".join(shlex.split(text, comments=True)) if step.kind == "command" else text
            try:
                said = self.known.get(words) or rule.run(self, text)
            except (AssertionError, ValueError, OSError, subprocess.TimeoutExpired) as error:
                said = Said(-1, f"{error}")  # this step's own failure; the next are typed as well
            self.known[words] = said
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
            text = text.replace("RUN_ID", self.some_run(text))
        return text

    def some_run(self, text: str) -> str:
        """A run that oscillates to ask a command about, else the one that was trained last."""
        swinging = [
            run.run_id
            for run in tracked(self.folder)
            if run.tags.get("verdict") == Verdict.OSCILLATING
        ]
        if text.startswith("python -m ") and swinging:
            return swinging[0]
        printed = "\n".join(said.text for said in self.said)
        return re.findall(r"^run (\w+) in ", printed, re.MULTILINE)[-1]


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
    words = shlex.split(text, comments=True)[2:]
    if not HAS_MNIST:
        words = ["data=digits" if word == "data=mnist" else word for word in words]
    if "examples/" in text:
        shutil.copytree(ROOT / "examples", reader.folder / "examples", dirs_exist_ok=True)
    return run_module([*words, *further], reader.folder, reader.environment)


def audit(reader: Reader, text: str) -> Said:
    """It exits with 1 where it finds something."""
    said = module(reader, text)
    return Said(0 if said.code == 1 else said.code, said.text)


def short_study(reader: Reader, text: str) -> Said:
    further = list(SHORT_STUDY)
    name = next((w.partition("=")[2] for w in text.split() if w.startswith("sweeps=")), "")
    beside = reader.folder / "sweeps" / f"{name}.yaml"
    if "own.file=" in text or (beside.is_file() and "own:" in beside.read_text()):
        further[-1] = "own.steps=100"
    file = (ROOT / "sweeps" / f"{name}.yaml").read_text() if name in study_files() else ""
    for setting, few in IF_ASKED_FOR.items():
        if setting.partition(".")[2] in file + text:
            further.append(f"{setting}={few}")
    if "confirm_seeds" in file:  # wide networks
        further += ["study.n_trials=2", "study.explain=false"]
    if "name: mnist" in file and not HAS_MNIST:
        further.append("data.name=digits")
    return module(reader, text, *further)


def short_run(reader: Reader, text: str) -> Said:
    return module(reader, text, "training.steps=300")


def short_function(reader: Reader, text: str) -> Said:
    return module(reader, text, "own.steps=60", *SHORT_REASONS)


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
            assert (ROOT / (file := next(words))).is_file(), f"there is no file {file}"
        elif word == "-e":
            extras = Requirement(next(words).replace(".", project["name"], 1)).extras
            there = set(project["optional-dependencies"])
            assert extras <= there, f"there are no extras {sorted(extras - there)}"
        else:
            Requirement(word)
    return Said(0, "")


def elsewhere(_reader: Reader, text: str) -> Said:
    """Not at all; but a folder that is gone into is there."""
    program, *words = shlex.split(text)
    assert program != "cd" or (ROOT / words[0]).is_dir(), f"there is no folder {words[0]}"
    return Said(0, "")


def the_tests(_reader: Reader, _text: str) -> Said:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    assert "tests" in settings["ini_options"]["testpaths"], "pytest does not look into tests"
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
    Rule(
        "command",
        r"(cd|export|ray start|createuser|createdb|docker compose|mlflow server)\b",
        elsewhere,
        "It needs machines and servers; test_cluster.py and test_servers.py start them.",
    ),
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
        r"python -m mlp\.sweep .*(HOST|execution=ray)",
        composed,
        "It needs a cluster and two servers: its settings are checked, test_cluster.py runs them.",
    ),
    Rule(
        "command",
        r"python -m benchmarks",
        its_help,
        "It takes minutes and an extra; test_bench.py runs a part of it.",
    ),
    Rule("command", r"python -m mlp\.sweep .*study\.dry_run=true", module),
    Rule("command", r"python -m mlp\.sweep", short_study, "It takes up to ten minutes."),
    Rule("command", r"python -m mlp\.train .*steps=10000", short_run, "It takes half a minute."),
    Rule("command", r"python -m mlp\.explain examples", short_function, "It takes minutes."),
    Rule(
        "command",
        r"python -m mlp\.explain EXPERIMENT",
        its_help,
        "It needs runs of another program; test_other_programs.py has some.",
    ),
    Rule("command", r"python -m mlp\.explain", short_explanation, "It takes up to ten minutes."),
    Rule("command", r"python -m mlp\.doctor", module, "The README shows another folder's faults."),
    Rule("command", r"python -m mlp\.rerun$", its_help, "It is only named: it takes a run."),
    Rule("command", r"python -m mlp\.audit", audit),
    Rule("command", r"python -m mlp\b", module),
    Rule("command", r"", shell),
    Rule("python", r"", python),
    Rule("call", r"", call),
    Rule("file", r"", save),
)

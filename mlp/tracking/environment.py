"""What a run was trained with: code, versions, machine."""

import functools
import getpass
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "hydra-core", "optuna", "mlflow")
_CODE = ("mlp", "conf", "sweeps")  # of a checkout; a user's own files beside them change no run
_PATIENCE_S = 5.0  # for git and sysctl, which answer in milliseconds


@dataclass(frozen=True)
class Environment:
    """Where this process runs.

    Attributes:
        python: version of Python.
        packages: version of each main package that is installed.
        code: version of this program.
        git_commit: of the checkout whose code is running; None for an installed one.
        is_dirty: whether code or configs of that checkout differ from the commit.
        cpu: model of the processor.
        system: operating system and architecture.
        user: who started it.
    """

    python: str
    packages: dict[str, str]
    code: str
    git_commit: str | None
    is_dirty: bool
    cpu: str
    system: str
    user: str


@functools.cache
def current() -> Environment:
    """The environment of this process, looked up once."""
    checkout = Path(__file__).resolve().parents[2]
    commit = _commit(checkout)
    return Environment(
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        code=_version("mlp-sweep") or "unknown",
        git_commit=commit,
        is_dirty=bool(
            commit and _output("git", *_in(checkout), "status", "--porcelain", "--", *_CODE)
        ),
        cpu=cpu(),
        system=f"{platform.system()} {platform.machine()}",
        user=_user(),
    )


def _commit(checkout: Path) -> str | None:
    """The commit of the checkout, if it is one of its own.

    A virtual environment often lies inside somebody's repository; that one's commit says nothing.
    """
    top = _output("git", *_in(checkout), "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != checkout:
        return None
    return _output("git", *_in(checkout), "rev-parse", "--verify", "HEAD") or None


def _in(checkout: Path) -> tuple[str, ...]:
    return ("--no-optional-locks", "-C", str(checkout))


def _output(*command: str) -> str:
    """What a command prints; nothing where it is missing or fails."""
    # Variables such as GIT_DIR, set inside a git hook, would point git at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu() -> str:
    """Model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    brand = named[0] if named else _output("sysctl", "-n", "machdep.cpu.brand_string")
    return brand or platform.processor() or platform.machine()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())

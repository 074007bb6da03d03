"""Real servers on loopback for the tests: PostgreSQL and MLflow, ended by their process ids."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

long = pytest.mark.skipif(
    "MLP_LONG_TESTS" not in os.environ, reason="a minute or so: set MLP_LONG_TESTS=1"
)


# No telemetry, and not ten more processes that evaluate language models: they keep two cores busy
# for a minute.
QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _postgres_programs() -> Path | None:
    """Debian keeps them out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    return folders[-1] if folders else Path(found).parent if found else None


class Postgres:
    """A PostgreSQL server with a folder of its own; root may not run one, so nobody does."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.port = folder, programs, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.user = "nobody" if os.getuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        words = ["initdb", "-D", "data", "-U", "study", "--auth=trust", "-E", "UTF8", "--no-sync"]
        self._run(*words, "--locale=C").check_returncode()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://study@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; returns its address."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "study"]
        self._run("createdb", *where, database).check_returncode()
        return self.url(database)

    def start(self) -> None:
        words = ["-D", "data", "-k", str(self.folder), "-p", str(self.port), "-h", "127.0.0.1"]
        words += ["-F"]  # nothing is flushed to the disk: the server may crash, the system does not
        self.process = subprocess.Popen(
            [self.programs / "postgres", *words],
            cwd=self.folder,
            user=self.user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "study", "-d", "postgres"]
        end = time.monotonic() + 60
        while self._run("pg_isready", *where).returncode:
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)

    def stop_immediately(self) -> None:
        """As a crash: connections are cut, nothing is written to the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def _run(self, program: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.programs / program, *words],
            cwd=self.folder,
            user=self.user,
            capture_output=True,
            check=False,
        )


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; skips the test where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mlp-postgres-"))
    server = None
    try:
        server = Postgres(folder, programs)
        server.start()
        yield server
    finally:
        if server is not None and server.process is not None and server.process.poll() is None:
            server.stop_immediately()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mlflow_server(folder: Path, store: str, *, port: int | None = None) -> Iterator[str]:
    """A tracking server that keeps runs in `store` and serves their files from a folder."""
    port = port or free_port()
    words = ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    words += ["--serve-artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *words]
    url = f"http://127.0.0.1:{port}"
    quiet = {**os.environ, **QUIET_MLFLOW}
    with running(command, folder, f"{url}/health", environment=quiet):
        yield url


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    folder: Path,
    address: str,
    *,
    environment: Mapping[str, str] | None = None,
    patience_s: float = 120.0,
) -> Iterator[None]:
    """A server that is started in a folder, answers at an address, and ends with its workers."""
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        end = time.monotonic() + patience_s
        while not _answers(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: its workers and no one else
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

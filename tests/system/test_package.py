"""The wheel, installed: commands, configs and studies travel inside it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.sweeping import left_in, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The Python of a new virtual environment with the wheel; what it needs is lent to it."""
    folder = tmp_path_factory.mktemp("package")
    built = subprocess.run(
        [*pip(sys.executable), "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "hatchling" in built.stderr:
        pytest.skip("hatchling cannot be had here, so no wheel can be built")
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(
        [*pip(sys.executable), "--python", python, "install", "--no-deps", "--quiet", wheel],
        check=True,
    )
    lend_compiled_code(packages / "mlp" / "engine")
    return python


def lend_compiled_code(installed: Path) -> None:
    """What Numba has compiled of the same files; it knows them by their size and time."""
    for file in (ROOT / "mlp" / "engine").glob("*.py"):
        taken = file.stat()
        os.utime(installed / file.name, ns=(taken.st_atime_ns, taken.st_mtime_ns))
    (installed / "__pycache__").mkdir(exist_ok=True)
    for file in (ROOT / "mlp" / "engine" / "__pycache__").glob("*.nb?"):
        shutil.copy2(file, installed / "__pycache__")


def pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--disable-pip-version-check"]


def run(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_sweep_runs_in_any_folder(installed, tmp_path, made_store):
    shutil.copy(made_store, tmp_path / "mlflow.db")
    where = run(installed, "-c", "import mlp; print(mlp.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    run(installed, "-m", "mlp.sweep", "sweeps=smoke", cwd=tmp_path)
    assert len(table(tmp_path)) == 4
    assert left_in(tmp_path) == {"mlflow.db", "mlruns", "optuna.db"}


def test_script_works_beside_a_file_of_the_same_name(installed, tmp_path, made_store):
    shutil.copy(made_store, tmp_path / "mlflow.db")
    (tmp_path / "mlp.py").write_text("raise SystemExit('a network of my own')\n")
    script = str(installed.with_name("mlp-sweep"))
    said = run(installed, script, "train", "data=digits", "training.steps=20", cwd=tmp_path)
    assert "  mlp-sweep rerun " in said


def test_own_studies_are_found_beside_the_shipped_ones(installed, tmp_path):
    (tmp_path / "sweeps").mkdir()
    study = (
        "study: {n_trials: 2, sampler: random, space: {optimizer.learning_rate: [0.1, 1.0]}}\n"
        "data: {name: digits}\n"
    )
    (tmp_path / "sweeps" / "mine.yaml").write_text(study)
    options = run(installed, "-m", "mlp.sweep", "--help", cwd=tmp_path)
    assert "  sweeps: accuracy, best, mine, oscillation, own, seed, smoke\n" in options
    said = run(installed, "-m", "mlp.sweep", "sweeps=mine", "--cfg", "job", cwd=tmp_path)
    assert "  n_trials: 2\n" in said

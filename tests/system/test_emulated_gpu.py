"""The code that a GPU would be given, run by the CPU: it has the bits of the CPU engine."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None or shutil.which("gcc") is None,
    reason="the extra cuda, or gcc",
)
SINGLE = (
    *("depth", "normalization", "wide", "batches", "moved", "non_finite", "guard", "subnormal"),
    *("pruned", "blocks", "one_chunk", "blocks_beside_batches", "held_out", "left_alone"),
    *("small_ones", "wide_ones", "mixed", "mixed_batches", "mixed_moved"),
    *("guarded", "guarded_batches"),
)
DOUBLE = "float64", "not_a_number", "mixed_double", "mixed_double_batches"


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=TESTS, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


# Compiling takes most of the time, so a process takes many cases. A race would show: blocks and
# threads run in other orders than the CPU's.
@pytest.mark.parametrize(
    ("names", "options"),
    [
        (SINGLE, ["--order=7", "--early"]),
        (DOUBLE, ["--order=5"]),
        (("two_gpus", "products"), ["--order=1"]),
    ],
    ids=["single", "double", "two"],
)
def test_an_emulated_gpu_gives_the_bits_of_the_cpu(names, options):
    done = run("engine.emulated", *names, *options)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last.endswith(f"{2 if 'two_gpus' in names else 1} GPUs, 0 arrays left")
    assert "Exception ignored" not in done.stderr
    seen = [line for line in lines if not line.endswith(" s")]
    assert {line.partition(":")[0] for line in lines if line.endswith(" s")} == set(names)
    assert len(seen) >= len(names)
    assert all(": same" in line for line in seen), done.stdout
    assert " 0 rollbacks" not in "".join(line for line in seen if line.startswith("guard "))
    assert "(0 measured)" not in done.stdout


@pytest.mark.parametrize("what", ["graph", "instructions"])
def test_the_emulated_gpu_is_right_about(what):
    done = run("engine.emulator.check", what)
    assert done.returncode == 0, done.stderr


def test_the_emulated_gpu_shows_a_race():
    found = {run("engine.emulator.check", "race", order).stdout for order in ("0", "1")}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("outside", "an address outside of every array"),
        ("apart", "a barrier that not every thread comes to"),
        ("unknown", "popc_b64"),
    ],
)
def test_the_emulated_gpu_stops_at(what, said):
    done = run("engine.emulator.check", what)
    assert done.returncode != 0
    assert said in done.stderr

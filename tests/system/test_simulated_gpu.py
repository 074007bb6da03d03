"""The GPU engine in Numba's simulator, which runs its Python; its code: test_emulated_gpu.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine.simulated import CASES

TESTS = Path(__file__).parents[1]
QUICK = "depth", "batches"


def output_of(module, *names):
    done = subprocess.run(
        [sys.executable, "-m", module, *names],
        cwd=TESTS, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", QUICK)
def test_a_simulated_gpu_gives_the_bits_of_the_cpu(name):
    lines = output_of("engine.simulated", name)
    assert len(lines) == len(CASES[name][1])
    for line in lines:
        assert ": same (" in line


def test_products_on_a_simulated_gpu_have_the_bits_of_the_cpu():
    assert output_of("engine.simulated", "products") == ["project: same", "collect: same"]

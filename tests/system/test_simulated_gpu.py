"""The GPU engine without a GPU: its bits in Numba's simulator, its code for a real one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine.simulated import CASES

TESTS = Path(__file__).parents[1]
# A fused multiply-add stands where the CPU has one, or in the library's division and root.
FUSED = {
    *("forward_rows", "upper_layers", "backward_pixels", "square_columns", "measure_columns"),
    *("project_rows", "collect_pixels"),
}


def output_of(module, *names):
    done = subprocess.run(
        [sys.executable, "-m", module, *names],
        cwd=TESTS, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", CASES)
def test_a_simulated_gpu_gives_the_bits_of_the_cpu(name):
    lines = output_of("engine.simulated", name)
    assert len(lines) == len(CASES[name][1])
    for line in lines:
        assert ": same (" in line
    if name == "guard":
        assert all(" 0 rollbacks" not in line for line in lines)
    endings = {"non_finite": "non_finite", "not_a_number": "non_finite", "pruned": "pruned"}
    assert f"({endings.get(name, 'completed')}, " in lines[0]


def test_products_on_a_simulated_gpu_have_the_bits_of_the_cpu():
    assert output_of("engine.simulated", "products") == ["project: same", "collect: same"]


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="the extra cuda")
def test_a_real_gpu_rounds_as_is_written():
    lines = [json.loads(line) for line in output_of("engine.compiled")]
    assert len({(dtype, name) for dtype, name, _ in lines}) == 26
    for dtype, name, found in lines:
        for operation in found:
            kind, *how = operation.split(".")
            if kind in ("add", "sub", "mul", "div", "fma", "rcp", "sqrt"):
                assert "rn" in how, (dtype, name, operation)
                assert "ftz" in how or "f64" in how, (dtype, name, operation)
                assert kind != "fma" or name in FUSED, (dtype, name, operation)
            assert operation != "cvt.f64.f32", (dtype, name)  # a subnormal number would stay

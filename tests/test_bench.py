"""`python -m benchmarks` as a process: what it measures, checks and prints; no time is asserted."""

import json
import subprocess
import sys

import pytest

from benchmarks.__main__ import works
from benchmarks.peers import PEERS
from support.servers import long
from support.sweeping import environment_of_commands


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """One small work beside two peers, on made-up images."""
    here = tmp_path_factory.mktemp("bench")
    nowhere = {"MLP_DATA_ROOT": str(here / "none"), "XDG_CACHE_HOME": str(here / "cache")}
    chosen = ("--works", "1 x 784-3-3-2", "--peers", "question", "jax_jit")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *chosen],
        cwd=here,
        env={**environment_of_commands(), **nowhere},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.system
@long
def test_the_last_line_is_one_json_object(benched):
    summary = json.loads(benched[-1])
    assert set(summary) == {"rows", "machine"}
    [row] = summary["rows"]
    assert row["work"] == "1 x 784-3-3-2"
    assert set(row["ms_per_model_step"]) == {"engine", "question", "jax_jit"}
    assert row["ms_per_model_step"]["engine"] > 0
    assert row["ms_per_model_step"]["question"] > 0
    assert row["limit_ms"] > 0


@pytest.mark.system
@long
def test_the_line_before_says_what_to_type_next(benched):
    command = benched[-2].removeprefix("next: python -m benchmarks ").partition("   ")[0].split()
    assert command[0] == "--works"
    assert any(command[1] in work.name for work in works())
    assert command[2] == "--peers"
    assert command[3] in PEERS


@pytest.mark.system
@long
def test_what_is_absent_is_named_as_absent(benched):
    [row] = json.loads(benched[-1])["rows"]
    is_absent = row["ms_per_model_step"]["jax_jit"] is None
    line = next(line for line in benched if "jax_jit" in line)
    assert is_absent == (" x" not in line.partition("jax_jit")[2][:30])


@pytest.mark.system
@long
def test_it_says_what_it_ran_on_and_how_a_study_grows(benched):
    assert "no MNIST here: made-up images of the same shape and sparsity" in benched
    assert sum("trials/s, peak memory" in line for line in benched) == 3


def test_the_works_are_those_that_are_reported():
    names = [work.name for work in works()]
    assert {"1 x 784-3-3-2", "32 x 784-3-3-2", "32 x mixed", "4 x 784-256-128-2"} <= set(names)
    assert {"question", "torch_eager", "torch_compile", "torch_vmap", "jax_jit", "jax_vmap"} | {
        "sklearn"
    } <= set(PEERS)


def test_a_contender_that_computes_other_losses_is_refused(monkeypatch):
    from benchmarks.__main__ import Work, find_data, time_work

    monkeypatch.setitem(PEERS, "question", lambda task: lambda n: [[9.9] * n] * len(task.first))
    data = find_data()
    with pytest.raises(RuntimeError, match="question computes other losses"):
        time_work(Work("1 x 784-3-3-2", ((3, 3),)), data, 1, ["question"])

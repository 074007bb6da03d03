"""Sweeps that die before a write and are gone on with: the same end as if nothing had been.

The moments are shares of all the writes that a study has, so that they move along with it. More of
them, drawn at random, and real processes that are killed: `scripts/crash_at_random.py`.
"""

import random
import shutil
import time
from pathlib import Path

import pytest

from support import crash
from support.forks import forks
from support.world import once, root_of

# Each study at one moment, so that all phases are met: the opening of the stores, the asking, the
# spool, the search's store, MLflow's runs, the winner and the end.
POINTS = [
    ("random", 0.03),
    ("qmc", 0.3),
    ("pruned", 0.45),
    ("raised", 0.6),
    ("grid", 0.8),
    ("tpe", 0.9),
    ("timed", 0.95),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, made_store):
    """The folder of a study that nothing stopped, and how many writes it has."""
    root = root_of(tmp_path_factory)

    def made(name: str) -> tuple[Path, int]:
        folder = once(root, f"crash-{name}", lambda here: crash.reference(here, made_store, name))
        return folder, int((folder / "n_writes").read_text())

    return made


@pytest.mark.parametrize(("name", "share"), POINTS)
def test_died_before_a_write_it_ends_as_if_it_never_did(
    tmp_path, made_store, reference, name, share
):
    expected, n_writes = reference(name)
    crash.die_and_go_on(tmp_path, made_store, name, round(n_writes * share))
    crash.assert_same_end(tmp_path, expected)


def test_studies_are_what_they_are_named_for(reference):
    rows = {name: crash.table(reference(name)[0]) for name in ("pruned", "raised", "grid")}
    assert {row.state for row in rows["pruned"]} == {"PRUNED", "COMPLETE"}
    assert [row.number for row in rows["raised"]] == list(range(5))
    assert len({tuple(row.params.items()) for row in rows["grid"]}) == 6


def test_killed_at_random_moments_it_ends_as_if_it_never_was(tmp_path, made_store, reference):
    chance = random.Random(n := random.randrange(10**6))
    print(f"moments drawn with seed {n}")
    shutil.copy(made_store, tmp_path / "mlflow.db")
    configs = crash.commands("random")
    for _ in range(3):
        process = forks().Process(target=crash.study_in, args=(tmp_path, configs))
        process.start()
        time.sleep(chance.uniform(0.1, 1.5))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
    assert crash.run_fork(crash.study_in, tmp_path, configs) == 0
    crash.assert_same_end(tmp_path, reference("random")[0])

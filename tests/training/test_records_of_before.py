"""Records of an earlier version are read, trained again, and come out the same."""

from pathlib import Path

import numpy as np
import pytest

from mlp.data.dataset import load_data
from mlp.rerun import compare
from mlp.tracking.display import cpu
from mlp.tracking.record import read_artifacts
from mlp.training.train_runs import train_runs

RECORDS = Path(__file__).parent / "records"
THEIR_CPU = "AMD EPYC"


@pytest.mark.parametrize("name", ["unit", "minibatch", "momentum"])
def test_a_record_of_before_comes_out_the_same(name):
    recipe, before = read_artifacts(RECORDS / name)
    data = load_data(recipe.config.data, notice=print)
    assert data.digest == recipe.data_digest
    [record] = train_runs([recipe.config], data, recipe.config.execution)
    after = record.result
    assert np.allclose(before.loss, after.loss, rtol=1e-4)
    if cpu() == THEIR_CPU:  # bits are promised on the same kind of processor
        assert compare(before, after) is None
        assert np.array_equal(before.sharpness, after.sharpness)

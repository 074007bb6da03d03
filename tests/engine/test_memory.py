"""Memory, counted before it is used."""

from mlp.engine.population import available_bytes, trial_bytes
from mlp.settings import read_run


def bytes_of(widths, **training):
    run = read_run({"model": {"depth": len(widths), "widths": widths}, "training": training})
    return trial_bytes(run, n_inputs=784, n_examples=12_396, threads=2)


def test_a_trial_counts_its_weights_several_times_and_its_curves():
    n_weights = 785 * 1000 + 1001 * 1000 + 1001 * 2
    assert 20 * 4 * n_weights < bytes_of([1000, 1000]) < 50 * 4 * n_weights
    assert bytes_of([1000, 1000], dtype="float64") > 1.5 * bytes_of([1000, 1000])
    assert bytes_of([3], steps=10**6) - bytes_of([3], steps=1) >= 3 * 8 * (10**6 - 1)


def test_a_measured_trial_counts_the_copies_of_its_weights():
    n_weights = 785 * 1000 + 1001 * 2
    assert bytes_of([1000], sharpness_points=16) - bytes_of([1000]) == 16 * 4 * n_weights


def test_there_is_some_memory():
    assert 10**7 < available_bytes() < 2**50

"""Trains for tests that look at arrays: the results alone, without what a record adds."""

from mlp.training.train_runs import train_runs


def results_of(configs, data, where, **options):
    """One `mlp.engine.result.Result` for each config, in the same order."""
    return [record.result for record in train_runs(configs, data, where, **options)]

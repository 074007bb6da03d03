"""The one way from settings to records gives what the steps taken one by one give."""

import time
from dataclasses import fields

import pytest

from mlp.config import Execution
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import load_data
from mlp.engine import cuda_steps, population
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError
from mlp.settings import read_run, with_settings
from mlp.sweep.generation import is_record_of
from mlp.tracking.record import curve_digest, weights_digest
from mlp.training.train_runs import make_record, train_runs
from mlp.training.work import train_population
from support.losing import Losing, deadly

BASE = read_run({"data": {"name": "digits"}, "training": {"steps": 40, "evaluate_every": 10}})
CONFIGS = [
    with_settings(BASE, {"optimizer.learning_rate": rate, "training.seed": seed})
    for seed, rate in enumerate((0.01, 3.0, 300.0, 1.0, 0.3))
]


@pytest.fixture(scope="module")
def data():
    return load_data(BASE.data, notice=print)


def seen(record):
    """All that a record says but when it was made."""
    skipped = {"result", "started_ms", "ended_ms"}
    own = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in skipped}
    return own, curve_digest(record.result), weights_digest(record.result)


@pytest.mark.parametrize("thresholds", [None, {20: 0.9}])
def test_records_equal_those_made_by_hand(data, thresholds):
    results = train_population(CONFIGS, data, threads=2, thresholds=thresholds, progress=None)
    by_hand = [
        make_record(config, data, result, started_ms=0, ended_ms=0, threads=2)
        for config, result in zip(CONFIGS, results, strict=True)
    ]
    found = train_runs(CONFIGS, data, Execution(threads=2), thresholds=thresholds)
    assert [seen(record) for record in found] == [seen(record) for record in by_hand]
    assert (Ending.PRUNED in {record.result.ending for record in found}) == bool(thresholds)
    assert [record.judgement for record in found] == [
        judge_run(r.result, r.config.training.batch_size) for r in found
    ]


def test_runs_are_told_of_while_others_train(data):
    told, before = {}, time.time_ns() // 1_000_000
    order = []

    def finished(made):
        order.append(sorted(made))
        told.update(made)

    def progress(n_done, _losses):
        assert len(told) <= n_done <= len(CONFIGS)

    where = Execution(threads=1, population=2)
    found = train_runs(CONFIGS, data, where, progress=progress, finished=finished)
    after = time.time_ns() // 1_000_000
    assert order == [[0, 1], [2, 3], [4]]
    assert [told[place] for place in range(len(CONFIGS))] == found
    assert len({record.started_ms for record in found}) == 1
    for record in found:
        assert before <= record.started_ms <= record.ended_ms <= after
        assert record.threads == 1
    assert found[0].ended_ms <= found[4].ended_ms


def test_what_was_finished_is_kept_where_the_training_is_stopped(data):
    kept = {}

    def progress(n_done, _losses):
        if kept:
            raise KeyboardInterrupt

    where = Execution(threads=1, population=2)
    with pytest.raises(KeyboardInterrupt):
        train_runs(CONFIGS, data, where, progress=progress, finished=kept.update)
    assert sorted(kept) == [0, 1]


def test_run_that_kills_its_workers_has_a_record_too(data):
    found = train_runs(CONFIGS, data, Losing(deadly(2)))
    assert [record.result.ending is Ending.CRASHED for record in found] == [
        place == 2 for place in range(len(CONFIGS))
    ]
    assert found[2].judgement.verdict is Verdict.DIVERGED
    assert found[2].config == CONFIGS[2]


class TwoGpus:
    """Stands for two GPUs, on which the CPU trains; knows who trained how many."""

    def __init__(self, monkeypatch):
        self.trained = []
        monkeypatch.setattr(cuda_steps, "count_gpus", lambda: 2)
        monkeypatch.setattr(population, "train", self.train)

    def train(self, configs, data, *, gpu, **how):
        self.trained.append((gpu, len(configs)))
        return TRAIN(configs, data, **how)


TRAIN = population.train


def test_each_of_several_gpus_trains_a_population(monkeypatch, data):
    gpus, told = TwoGpus(monkeypatch), []
    where = Execution(engine="cuda", threads=1)
    found = train_runs(CONFIGS, data, where, progress=lambda n_done, _: told.append(n_done))
    assert sorted(n for _, n in gpus.trained) == [2, 3]
    assert {gpu for gpu, _ in gpus.trained} <= {0, 1}
    assert told == sorted(told)
    monkeypatch.undo()
    here = train_runs(CONFIGS, data, Execution(threads=1))
    assert [seen(record) for record in found] == [seen(record) for record in here]


def test_gpus_are_let_go_where_the_training_is_stopped(monkeypatch, data):
    gpus = TwoGpus(monkeypatch)
    long = [with_settings(config, {"training.steps": 10**6}) for config in CONFIGS]

    def progress(n_done, _losses):
        if n_done and len(gpus.trained) == 2:  # both have begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(long, data, Execution(engine="cuda", threads=1), progress=progress)
    assert len(gpus.trained) == 2


def test_what_fits_no_gpu_is_said_by_it(monkeypatch, data):
    TwoGpus(monkeypatch)
    wide = with_settings(CONFIGS[0], {"model.depth": 2, "model.widths": [65536, 65536]})
    with pytest.raises(SystemLimitError, match="must fit into"):
        train_runs([CONFIGS[1], wide], data, Execution(engine="cuda", threads=1))


def test_nothing_to_train_is_no_record(data):
    assert train_runs([], data, Execution(threads=1)) == []


def test_auto_is_one_over_the_sharpness_by_normalization(data):
    """The stability ratio is half the effective step x sharpness, so 1/2 at the first weights."""
    auto = with_settings(BASE, {"optimizer.learning_rate": "auto", "training.sharpness_points": 2})
    configs = [
        with_settings(auto, {"gradient.normalization": normalization, "model.activation": f})
        for normalization, f in zip(
            ("sum", "mean", "unit", "clip"), ("sigmoid", "tanh", "relu", "sigmoid"), strict=True
        )
    ]
    records = train_runs(configs, data, Execution(threads=1))
    for config, record in zip(configs, records, strict=True):
        assert record.result.stability_ratio[0] == pytest.approx(0.5, rel=1e-6)
        assert record.config == with_settings(
            config, {"optimizer.learning_rate": record.config.optimizer.rate}
        )
    again = train_runs([record.config for record in records], data, Execution(threads=1))
    for one, other in zip(records, again, strict=True):
        assert curve_digest(one.result) == curve_digest(other.result)
        assert weights_digest(one.result) == weights_digest(other.result)
    assert is_record_of(again[0], configs[0], data.digest)
    assert not is_record_of(again[0], configs[1], data.digest)


def test_auto_ends_no_study_where_nothing_bends_the_loss(data):
    flat = {"optimizer.learning_rate": "auto", "initialization.scale": 1e30}
    [flat_record, other] = train_runs(
        [with_settings(BASE, flat), with_settings(BASE, {"optimizer.learning_rate": "auto"})],
        data,
        Execution(threads=1),
    )
    assert flat_record.config.optimizer.rate in (1.0, 1000.0)
    assert 0 < other.config.optimizer.rate < 1000

"""Reruns that were trained together, in one small file and back."""

import dataclasses
import json

import numpy as np
import pytest

from mlp.errors import RecordError
from mlp.settings import settings_of
from mlp.tracking.batch import batch_of, read_batch, write_batch
from mlp.tracking.read import reruns_of
from support.sample_records import make_record

LOSS = 0.5 + 0.4 * (-1.0) ** np.arange(501)
RECORDS = [
    make_record(
        {
            "optimizer.learning_rate": 0.1 * i,
            "model.widths": [i, 3],
            "training.seed": i,
            "training.steps": 500,
        },
        loss=LOSS,
    )
    for i in range(1, 9)
]


def test_what_is_read_is_what_was_kept():
    found = reruns_of(read_batch(write_batch(batch_of("a-study", RECORDS))))
    assert [settings_of(own.config) for own in found] == [settings_of(r.config) for r in RECORDS]
    assert [own.judgement for own in found] == [r.judgement for r in RECORDS]
    assert {own.data_digest for own in found} == {"d" * 64}
    assert {own.ended_ms - own.started_ms for own in found} == {900}


def test_the_curve_is_thin_and_keeps_its_swings():
    [first, *_] = reruns_of(batch_of("a-study", RECORDS))
    assert first.curve.value.size <= 64
    assert (first.curve.value.min(), first.curve.value.max()) == (LOSS.min(), LOSS.max())
    assert first.curve.step[-1] == 500


def test_a_rerun_takes_few_bytes():
    assert len(write_batch(batch_of("a-study", RECORDS))) < 5_000 * len(RECORDS)


def test_an_infinite_number_comes_back():
    huge = dataclasses.replace(RECORDS[0].judgement, largest_rise=float("inf"))
    kept = batch_of("a-study", [dataclasses.replace(RECORDS[0], judgement=huge)])
    [found] = reruns_of(read_batch(write_batch(kept)))
    assert found.judgement == huge


def test_the_same_reruns_have_the_same_file():
    assert batch_of("a", RECORDS).name == batch_of("a", RECORDS).name
    assert batch_of("a", RECORDS).name != batch_of("a", RECORDS[1:]).name
    assert batch_of("a", RECORDS).name != batch_of("b", RECORDS).name


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("key"),
        lambda values: values.update(further=1),
        lambda values: values["settings"].pop("optimizer.momentum"),
        lambda values: values["settings"].update({"optimizer.momentum": 7.0}),
        lambda values: values["settings"].update({"optimizer.speed": 1.0}),
        lambda values: values["reruns"][0]["judgement"].update(verdict="fine"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(damage):
    values = json.loads(write_batch(batch_of("a-study", RECORDS)))
    damage(values)
    with pytest.raises(RecordError, match=r"reruns\.json"):
        reruns_of(read_batch(json.dumps(values)))

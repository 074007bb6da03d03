"""Reruns of an explanation, many in one small file: settings, verdict, and a thin loss curve.

A rerun answers a question and is seldom looked at by itself, so it is no run of MLflow's: it costs
a few hundred bytes, and a population is recorded as fast as one run. Whoever wants the whole of it
trains its settings again.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from mlp.config import RunConfig, digest
from mlp.curve import Judgement
from mlp.settings import recorded_settings
from mlp.tracking.display import thin
from mlp.tracking.record import (
    RunRecord,
    program_values,
    read_json,
    read_program_values,
    read_settings,
)

BATCH_FILE = "reruns.json"
_POINTS = 64  # of a curve: what a small picture of it shows
# A judgement of a huge loss may hold an infinity, which JSON has no number for.
_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@checked_dataclass(frozen=True, config=_STRICT)
class Entry:
    """What is kept of one rerun.

    Attributes:
        settings: those that are not the same in all.
        step: of its loss, thinned.
        started_ms: milliseconds since 1970 in UTC; the same for all that were trained together.
    """

    settings: dict[str, Any]
    judgement: Judgement
    step: list[int]
    loss: list[float]
    started_ms: int
    ended_ms: int


@checked_dataclass(frozen=True, config=_STRICT)
class Batch:
    """The text of some reruns.

    Attributes:
        key: of the study or run that they explain.
        data_digest: of the data that all were trained on.
        settings: those that are the same in all.
        reruns: what they differ in, and what came of each.
        program: of an own function: its signature; None: the built-in network.
    """

    key: str
    data_digest: str
    settings: dict[str, Any]
    reruns: list[Entry]
    program: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of its file among the artifacts: the same for the same reruns."""
        own = digest([self.key, self.settings, [own.settings for own in self.reruns]])
        return f"reruns-{own[:16]}.json"


def batch_of(key: str, records: Sequence[RunRecord]) -> Batch:
    """What is kept of reruns that were trained together."""
    settings = [recorded_settings(record.config) for record in records]
    first = settings[0]
    shared = {
        path: value
        for path, value in first.items()
        if all(path in own and own[path] == value for own in settings)
    }
    entries = []
    for record, own in zip(records, settings, strict=True):
        curve = thin(record.result.loss, record.result.loss_step, _POINTS)
        entries.append(
            Entry(
                settings={path: v for path, v in own.items() if path not in shared},
                judgement=record.judgement,
                step=curve.step.tolist(),
                loss=curve.value.tolist(),
                started_ms=record.started_ms,
                ended_ms=record.ended_ms,
            )
        )
    function = records[0].config.own
    program = program_values(function.program) if function is not None else None
    return Batch(key, records[0].data_digest, shared, entries, program)


def write_batch(batch: Batch) -> str:
    """The text of a batch."""
    return _batches.dump_json(batch).decode()


def read_batch(text: str) -> Batch:
    """Reads the text of a batch from anywhere."""
    return read_json(text, _batches, source=BATCH_FILE)


def configs_in(batch: Batch) -> list[RunConfig]:
    """The settings of the reruns of a batch, through the schema's own door."""
    program = None if batch.program is None else read_program_values(batch.program)
    return [
        read_settings({**batch.settings, **own.settings}, program, source=BATCH_FILE)
        for own in batch.reruns
    ]


_batches = TypeAdapter(Batch)

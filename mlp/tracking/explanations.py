"""Explanations in MLflow: the run that holds the reruns, the page, the answer where people look."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

from mlflow.entities import RunTag

from mlp.tracking import display
from mlp.tracking.label import EXPLAINS, KEY
from mlp.tracking.runs import find_run
from mlp.tracking.view import NOTE_TAG

_ANSWER, _CAUSES = "mlp.answer", "mlp.causes"
_END_OF_ANSWER = "\n\n---\n\n"  # in a note; what stands behind it is not the answer's
_LONGEST_TAG = 8000


def start_explanation(store: Store, *, key: str, name: str, parent: str | None) -> str:
    """The run whose children are reruns: the one that is there, or a new one.

    Args:
        store: where.
        key: of the study or run that is explained.
        name: of the new run, for a person.
        parent: id of the run that is explained, or of the study's, if it has one.

    Returns:
        Its id; it is RUNNING.
    """
    own_key = f"{key}/explain"
    tags = {**display.environment_tags(), KEY: own_key, EXPLAINS: key}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    with one_sentence(store.uri):
        known = find_run(store, own_key)
        if known is not None:
            store.client.update_run(known.info.run_id, status="RUNNING")
            return str(known.info.run_id)
        made = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
    return str(made.info.run_id)


def log_page(store: Store, run_id: str, text: str, name: str) -> None:
    """Adds a page to a run's artifacts; an older one of that name is replaced."""
    with one_sentence(store.uri), TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        store.client.log_artifact(run_id, str(file))


def describe_answer(
    store: Store, run_ids: Iterable[str], *, sentences: Sequence[str], causes: Sequence[str]
) -> None:
    """Puts the answer where people look: first in a run's note, and in tags to filter by.

    What the note said before stays below it; an earlier answer goes.
    """
    named = ", ".join(dict.fromkeys(causes)) or "none shown"
    with one_sentence(store.uri):
        for run_id in run_ids:
            before = store.client.get_run(run_id).data.tags
            note = before.get(NOTE_TAG, "")
            earlier = _shown(before.get(_ANSWER, ""))
            rest = note.removeprefix(earlier).removeprefix(_END_OF_ANSWER) if earlier else note
            tags = {_CAUSES: named, _ANSWER: "\n\n".join(sentences)}
            tags[NOTE_TAG] = _below(tags, rest)
            store.client.log_batch(
                run_id, tags=[RunTag(name, text[:_LONGEST_TAG]) for name, text in tags.items()]
            )


def below_answer(store: Store, run_id: str, note: str) -> str:
    """A new note of a run with the answer before it, if an explanation has given one."""
    with one_sentence(store.uri):
        tags = store.client.get_run(run_id).data.tags
    return _below(tags, note)


def _below(tags: Mapping[str, str], note: str) -> str:
    answer = _shown(tags.get(_ANSWER, ""))
    return f"{answer}{_END_OF_ANSWER}{note}" if answer and note else answer or note


def _shown(answer: str) -> str:
    first, *rest = answer.split("\n\n")
    return "\n\n".join([f"**{first}**", *rest]) if answer else ""

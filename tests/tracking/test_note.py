"""The descriptions in MLflow: the verdict first, then what to type."""

import math

from mlp.curve import Verdict
from mlp.tracking.listing import Label, listing_of, study_note
from support.sample_records import make_record


def note_of(run) -> str:
    return listing_of(run, Label("x", {})).note_of("0f")


def test_note_of_a_run_says_verdict_numbers_and_commands():
    made = make_record({"optimizer.learning_rate": 0.6})
    said = made.judgement.sentence
    note = note_of(made)
    picture, text = note.split("\n\n")[:2]
    assert picture == "![the loss](get-artifact?path=loss.svg&run_uuid=0f)"
    assert text.startswith(f"**{made.judgement.verdict}**: {said} Loss 0.0851 after 20 steps;")
    assert "validation accuracy 0.9" in note
    again = "python -m mlp.rerun 0f"
    assert note.endswith(f"```console\n{again}\n{again} optimizer.learning_rate=0.3\n```")


def test_note_of_an_oscillating_run_says_how_it_swings():
    note = note_of(make_record(loss=[1 + 0.5 * (-1) ** i for i in range(400)]))
    assert "\n\n**oscillating**" in note
    assert "swings by 100 %, every 2 steps" in note


def test_note_of_a_diverged_run_says_when():
    note = note_of(make_record(loss=[0.7, 0.9, math.inf]))
    assert "Lost at step 2." in note
    assert "python -m mlp.explain 0f" in note


def test_note_of_an_oscillating_run_offers_to_stop_it():
    swinging = make_record(loss=[0.3 + i % 2 for i in range(200)])
    assert swinging.judgement.verdict is Verdict.OSCILLATING
    explain, again, _ = note_of(swinging).split("```console\n")[1].splitlines()[:3]
    assert explain == "python -m mlp.explain 0f"
    assert again == "python -m mlp.rerun 0f"
    assert "mlp.explain" not in note_of(make_record(loss=[0.7, 0.6, 0.5]))


def test_note_of_a_study_counts_verdicts_and_names_the_winner():
    verdicts = [Verdict.OSCILLATING] * 2 + [Verdict.LEARNING] * 3 + [Verdict.STALLED]
    note = study_note(
        verdicts,
        winner="Best is #3.",
        settings={"model.depth": 2, "optimizer.learning_rate": 0.123456},
        commands=["python -m mlp.rerun 0f"],
    )
    assert note.split("\n\n") == [
        "**2 of 6 runs are oscillating**, 3 are learning, 1 is stalled.",
        "Best is #3.",
        "```console\npython -m mlp.rerun 0f\n```",
        "`model.depth=2`, `optimizer.learning_rate=0.1235`",
    ]

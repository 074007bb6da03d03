"""The example of the question runs on the public functions, and prints both columns."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "printed_losses.py"


@pytest.fixture
def example(tmp_path, made_store, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(made_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = importlib.util.spec_from_file_location("printed_losses", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_printed_stands_beside_the_loss_after_the_same_update(
    example, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["printed_losses.py", "--data", "digits", "--steps", "520"])
    example.main()
    head, line, asked, here, sentence, after = capsys.readouterr().out.splitlines()
    assert head.split() == ["iteration", "in", "the", "question", "here"]
    iteration, theirs, ours = line.split()
    assert (iteration, theirs) == ("500", "2.115385")
    import mlp

    run = mlp.load_run(after.split()[-1])
    assert ours == f"{run.result.loss[501]:.6f}"
    assert asked.startswith("from 0.45 to 4.85 where")
    assert here.startswith(f"from {run.result.loss.min():.2f} to {run.result.loss.max():.2f} over")
    assert sentence == run.verdict.sentence
    settings = run.config
    assert (settings.gradient.normalization, settings.gradient.derivative) == ("sum", "question")
    assert (settings.model.layer_widths, settings.training.dtype) == ((3, 3), "float64")


def test_all_nineteen_losses_are_there(example):
    assert list(example.PRINTED_LOSSES) == list(range(500, 10_000, 500))
    assert (example.PRINTED_LOSSES[3000], example.PRINTED_LOSSES[1500]) == (0.454743, 4.851937)

"""The descriptions that MLflow shows of studies and runs: short Markdown notes.

MLflow's pages show some six lines of a description and hide the rest, so what matters comes first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from mlp.curve import Verdict
from mlp.engine.result import Ending
from mlp.tracking.commands import explain_command, rerun_command
from mlp.tracking.display import numbers
from mlp.tracking.record import RunRecord
from mlp.tracking.view import page_query


def run_note(run: RunRecord, run_id: str) -> str:
    """What came of a run, and how to train it again.

    Args:
        run: what was recorded.
        run_id: MLflow's id of it.
    """
    verdict = run.judgement.verdict
    came_of_it = f"**{verdict.value}**: {run.judgement.sentence}"
    if run.result.ending is Ending.CRASHED:
        came_of_it = f"**crashed**: {Ending.CRASHED.sentence}"
    again = rerun_command(run_id, run.config)
    half = run.config.optimizer.learning_rate / 2
    commands = [again, f"{again} optimizer.learning_rate={half:.3g}"]
    offers = "The same again, bit for bit, or with half its learning rate:"
    if verdict is Verdict.OSCILLATING:
        commands.insert(0, explain_command(run_id, run.config))
        offers = "What stops it; the same again, bit for bit; the same with half its learning rate:"
    return "\n\n".join(
        [
            f"{came_of_it} {_numbers(run)}".strip(),
            offers,
            _block(commands),
        ]
    )


def study_note(
    verdicts: Sequence[Verdict],
    *,
    winner: str | None = None,
    settings: Mapping[str, object] | None = None,
    commands: Sequence[str] = (),
) -> str:
    """What came of a study: verdicts, the best trial, its settings, what to type next.

    Args:
        verdicts: of all trials.
        winner: Markdown about the best trial; None where no run stayed finite.
        settings: its searched settings.
        commands: to type.

    Example:
        >>> print(study_note([Verdict.OSCILLATING, Verdict.STALLED, Verdict.STALLED]))
        **1 of 3 runs is oscillating**, 2 are stalled.
        <BLANKLINE>
        None of them came to its end with a finite loss.
    """
    counts = Counter(verdicts)
    n_oscillating = counts.pop(Verdict.OSCILLATING, 0)
    line = f"**{n_oscillating} of {len(verdicts)} runs {_are(n_oscillating)} oscillating**"
    line += "".join(f", {n} {_are(n)} {verdict.value}" for verdict, n in counts.most_common())
    if winner is None:
        return f"{line}.\n\nNone of them came to its end with a finite loss."
    parts = [f"{line}.", winner, _block(commands)]
    if settings:
        parts.append(", ".join(f"`{name}={_short(value)}`" for name, value in settings.items()))
    return "\n\n".join(parts)


def run_link(experiment_id: str, run_id: str, name: str) -> str:
    """A link from one page of MLflow to that of a run.

    Example:
        >>> run_link("1", "0f", "#3 lr 0.5")
        '[#3 lr 0.5](#/experiments/1/runs/0f?workflowType=machine_learning)'
    """
    return f"[{name}](#/experiments/{experiment_id}/runs/{run_id}?{page_query(None)})"


def _numbers(run: RunRecord) -> str:
    known = numbers(run)
    if "diverged_at_step" in known:
        return f"It was lost at step {known['diverged_at_step']:.0f}."
    if "final_loss" not in known:
        return ""
    parts = [f"Loss {known['final_loss']:.4g} after {run.result.last_step} steps"]
    if "final_validation_accuracy" in known:
        parts.append(f"validation accuracy {known['final_validation_accuracy']:.4f}")
    if run.judgement.verdict is Verdict.OSCILLATING:
        period = known.get("period_steps")
        pace = "" if period is None else f" every {period:.3g} steps"
        parts.append(f"swings of {100 * run.judgement.amplitude:.0f} % of its level{pace}")
    return ", ".join(parts) + "."


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _block(commands: Sequence[str]) -> str:
    return "\n".join(["```console", *commands, "```"])

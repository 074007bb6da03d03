"""What to type next, with the places that a config names; for the screen and for MLflow's pages."""

import re
import shlex

from mlp.config import RunConfig, Study, Tracking
from mlp.tracking.store_uri import mask


def rerun_command(run_id: str, config: RunConfig) -> str:
    r"""What to type to train a run again.

    Example:
        >>> rerun_command("0f", RunConfig(data={"root": "my digits"}))
        'python -m mlp.rerun 0f \'data.root="my digits"\''
    """
    return shlex.join(["python", "-m", "mlp.rerun", run_id, *_places(config)])


def explain_command(which: str, config: RunConfig) -> str:
    """What to type to explain a study or a run."""
    return shlex.join(["python", "-m", "mlp.explain", which, *_places(config)])


def doctor_command(config: RunConfig, storage: str | None = None) -> str:
    """What to type to have published what waits.

    Args:
        config: says where to publish.
        storage: of the study; None for a single run, or where nobody named one.

    Example:
        >>> doctor_command(RunConfig())
        'python -m mlp.doctor fix=true'
    """
    words = ["python", "-m", "mlp.doctor", "fix=true"]
    if storage not in (None, Study().storage):
        words.append(f"study.storage={_quoted(mask(str(storage)))}")
    words += _tracking(config)
    if config.tracking.experiment != Tracking().experiment:
        words.append(f"tracking.experiment={_quoted(config.tracking.experiment)}")
    return shlex.join(words)


def _places(config: RunConfig) -> list[str]:
    root = config.data.root
    return [*([] if root is None else [f"data.root={_quoted(root)}"]), *_tracking(config)]


def _tracking(config: RunConfig) -> list[str]:
    uri = config.tracking.uri
    return [] if uri is None else [f"tracking.uri={_quoted(mask(uri))}"]


def _quoted(text: str) -> str:
    """The text as Hydra's overrides take it: brackets, commas and blanks need quotes."""
    return text if re.fullmatch(r"[\w./:@-]+", text) else '"' + text.replace('"', '\\"') + '"'

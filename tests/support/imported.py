"""What commands import, imported once in the process that they are forked from."""
# ruff: noqa: F401

import gc
import os

import mlflow.pyfunc
import mlflow.utils.requirements_utils as requirements

import mlp.doctor
import mlp.explain.explain_study
import mlp.explain.repair_run
import mlp.rerun
import mlp.sweep.run_study
import mlp.tracking.store
from mlp.config import Data, RunConfig
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.settings import with_settings
from mlp.terminal.compose import compose

# MLflow looks through all that is installed before it saves a model: most of a second.
getattr(requirements, "_init_packages_to_modules_map", lambda: None)()

# Compiled code is loaded when it is first called, Hydra's grammar too. The threads end with it.
compose("train", [])
train(
    [with_settings(RunConfig(), {"training.steps": 1})],
    load_data(Data(name="digits"), notice=print),
)

# As conftest.py says: a command that a test starts trains with one thread, if not told otherwise.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_getaffinity"):
    os.sched_getaffinity = lambda _: {0}

# No fork looks through all that for garbage, nor copies the pages on which it lies.
gc.collect()
gc.freeze()

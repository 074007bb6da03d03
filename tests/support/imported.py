"""What commands import, imported once in the process that they are forked from."""
# ruff: noqa: F401

import mlflow.pyfunc
import sklearn.datasets

import mlp.api.explanation
import mlp.api.network
import mlp.api.study
import mlp.flow.checkup
import mlp.tracking.runs
from mlp.config import Data, RunConfig
from mlp.data.dataset import load
from mlp.door import with_settings
from mlp.engine.population import train
from mlp.terminal.compose import compose

# Compiled code is loaded when it is first called, Hydra's grammar too. The threads end with it.
compose("train", [])
train([with_settings(RunConfig(), {"training.steps": 1})], load(Data(name="digits"), notice=print))

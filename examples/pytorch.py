"""A network in PyTorch, swept and explained like any other.

python -m mlp.sweep sweeps=own own.file=examples/pytorch.py
"""

from typing import Literal

import torch
from sklearn.datasets import load_digits

digits = load_digits()
is_chosen = (digits.target == 3) | (digits.target == 7)
X = torch.tensor(digits.data[is_chosen] / 16, dtype=torch.float32)
y = torch.tensor(digits.target[is_chosen] == 7, dtype=torch.float32)


def train(
    learning_rate: float = 0.1,
    hidden: int = 8,
    activation: Literal["sigmoid", "relu", "tanh"] = "relu",
    momentum: float = 0.9,
    steps: int = 200,
    seed: int = 0,
):
    """Yields loss and accuracy before each step; returns the parameters."""
    torch.manual_seed(seed)
    act = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), act(), torch.nn.Linear(hidden, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    for _ in range(steps):
        output = model(X).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(output, y)
        yield {"loss": loss, "accuracy": ((output > 0) == (y > 0.5)).float().mean()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()

"""A training function whose loss swings at rates above 2, whatever its other arguments are."""

import math


def train(rate=0.5, start=3.0, label="a", on=False, steps=200, seed=0):
    x = start + 1e-3 * seed
    for _ in range(steps):
        x -= rate * (math.tanh(x) + 0.1)
        yield {"loss": 0.05 + math.log(math.cosh(x)) + 0.1 * x, "score": -abs(x)}
    return {"x": [x]}

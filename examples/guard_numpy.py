"""A loop of one's own, guarded: python examples/guard_numpy.py. Its rate is far too large."""

import numpy as np

import mlp

rng = np.random.RandomState(0)
X = rng.standard_normal((500, 20))
y = np.sign(X @ rng.standard_normal(20))
weights = [rng.standard_normal((20, 8)) / 4, rng.standard_normal(8)]

guard, rate, best = mlp.Guard(noise=0), 100.0, weights  # noise=0: each loss is over all examples
for _ in range(400):
    hidden = np.tanh(X @ weights[0])
    margin = y * (hidden @ weights[1])
    action = guard.observe(np.logaddexp(0, -margin).mean())
    if action.is_best:
        best = weights
    if action.name == "restore":
        print(action.why)
        weights, rate = best, rate * action.factor
        continue
    delta = -y * np.exp(-np.logaddexp(0, margin)) / len(X)
    below = np.outer(delta, weights[1]) * (1 - hidden**2)
    weights = [weights[0] - rate * X.T @ below, weights[1] - rate * hidden.T @ delta]
print(f"loss {np.logaddexp(0, -margin).mean():.4g} with a rate of {rate:.4g}")

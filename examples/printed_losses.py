"""The network of the question that this project began with: does its loss swing as it did there?

    python examples/printed_losses.py                      the question's own run, some minutes
    python examples/printed_losses.py --data digits --steps 600  the same network, small data

Somebody had written a network of 784-3-3-2 units by hand, to tell threes from sevens, and trained
it for 10,000 steps on the whole training part. He expected the loss to go on falling after
iteration 4500, but it swung. He suspected his backpropagation: it has 1 - sigmoid(a) where the
derivative a (1 - a) belongs. `gradient=question` does as he did, and sums the gradient over all
digits.

The swings are chaotic, so no two machines agree on the single losses for long. What can be compared
is how far they swing. What stops them, `python -m mlp.explain` and the id of the run say.
"""

import argparse

import numpy as np

import mlp

# Iteration -> loss, as printed at the end of the question.
PRINTED_LOSSES = {
    500: 2.115385,
    1000: 3.981505,
    1500: 4.851937,
    2000: 2.286764,
    2500: 0.650758,
    3000: 0.454743,
    3500: 2.034308,
    4000: 2.221124,
    4500: 0.486550,
    5000: 1.803266,
    5500: 2.318486,
    6000: 1.594879,
    6500: 3.081962,
    7000: 2.340241,
    7500: 3.693953,
    8000: 1.618758,
    8500: 2.328891,
    9000: 2.265693,
    9500: 3.503290,
}
SETTINGS = {
    "model": "question",
    "gradient": "question",
    "optimizer.learning_rate": 0.005,
    "data.validation_fraction": 0.0,
    "training.seed": 0,
    "training.dtype": "float64",
}


def main() -> None:
    """Trains the question's network and prints its losses beside those of the question."""
    parser = argparse.ArgumentParser(description="the question's network, trained once more")
    parser.add_argument("--data", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--steps", default=10_000, type=int)
    asked = parser.parse_args()
    run = mlp.train_network({**SETTINGS, "data": asked.data, "training.steps": asked.steps})
    print("iteration  in the question      here")
    for iteration, printed in PRINTED_LOSSES.items():
        if iteration + 1 < run.result.loss.size:
            # The question prints after the update, entry i of a curve is the loss before update i.
            print(f"{iteration:9}{printed:17.6f}{run.result.loss[iteration + 1]:10.6f}")
    low, high = min(PRINTED_LOSSES.values()), max(PRINTED_LOSSES.values())
    print(f"from {low:.2f} to {high:.2f} where the question printed it")
    loss = run.result.loss
    print(f"from {np.nanmin(loss):.2f} to {np.nanmax(loss):.2f} over all iterations here")
    print(run.verdict.sentence)
    print(f"what stops it: python -m mlp.explain {run.run_id}")


if __name__ == "__main__":
    try:
        main()
    except mlp.MlpError as error:
        raise SystemExit(str(error)) from None

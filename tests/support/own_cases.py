"""A file with a training function as anybody may write one: what it gives, and what it does wrong.

`train` does one of these for each `case`; the tests copy this file to where they work. It imports
nothing of the package.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

if "." not in __name__:  # where it is trained, not where the tests look at it
    with Path("imported.txt").open("a") as file:
        file.write("once\n")
SEEN = []
DRAWN = np.random.rand()


def train(case="yields", rate=0.5, n=6):
    return globals()[case](rate, n)


# What a function may give


def yields(rate, n):
    for step in range(n):
        yield rate / (step + 1)
    pairs = [(np.ones((2, 3)), np.zeros(3)), {"W": np.ones(3), "odd": object()}]
    return {"W": np.full((2, 3), rate), "b 1": [1, 2], "pairs": pairs}


def yields_names(rate, n):
    for step in range(n):
        told = {"loss": np.float32(rate), "accuracy": step}
        yield told if step % 2 else {**told, "late": np.array([[step]])}


def returns_losses(rate, n):
    return [rate] * n


def returns_weights_first(rate, n):
    return (np.ones(3), [rate] * n)


def returns_losses_first(rate, n):
    return ([rate] * n, {"W": np.ones((2, 2))})


def returns_curves(rate, n):
    return {"loss": [rate] * n, "accuracy": np.arange(n)}


def draws(rate, n):
    for _ in range(n):
        yield np.random.rand() + random.random() + DRAWN


def remembers(rate, n):
    SEEN.append(rate)
    yield from [float(len(SEEN))] * n


def diverges(rate, n):
    yield from [1.0, 2.0, float("nan"), 3.0]


def names_without_end(rate, n):
    for step in range(1000):
        yield {"loss": 1.0, f"curve {step}": 1.0}
    return {str(i): i for i in range(10_000)}


# What may go wrong


def raises(rate, n):
    yield 1.0
    yield 0.5
    {}["what is not there"]


def raises_a_page(rate, n):
    yield 1.0
    raise ValueError("\x1b[2J" + "line\n" * 1000)


def crashes(rate, n):
    yield from [1.0, 0.5, 0.25]
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(rate, n):
    yield 1.0
    os._exit(7)


def exits(rate, n):
    yield 1.0
    sys.exit("enough")


def hangs(rate, n):
    yield from [1.0, 0.5]
    time.sleep(1000)


def hangs_in_c(rate, n):
    yield 1.0
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    sum(range(10**12))


def prints(rate, n):
    line = "x" * 99_999
    for _ in range(1000):
        print(line)
    print("the end")
    yield from [1.0] * n


def leaves_children(rate, n):
    child = subprocess.Popen(["sleep", "1000"])
    yield from [float(child.pid)] * n


def gives_none(rate, n):
    yield 1.0
    yield None


def gives_complex(rate, n):
    yield 1 + 2j


def gives_array(rate, n):
    yield np.ones(3)


def gives_text(rate, n):
    return "0.5"


def gives_no_loss(rate, n):
    yield {"accuracy": 1.0}


def gives_nothing(rate, n):
    yield from ()


def gives_unequal_curves(rate, n):
    return {"loss": [1.0, 2.0], "accuracy": [1.0]}

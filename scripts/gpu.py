"""How long a step takes on the GPU, and whether it gives the bits of the CPU.

    python scripts/gpu.py mnist 1000        data set, steps: more than 512
    python scripts/gpu.py digits 1000 32    at most so many networks

Prints a line for each work, and all of it as JSON in the last one. No GPU has run it yet.
"""

import json
import sys
import time

from numba import cuda

from mlp.config import RunConfig
from mlp.data.dataset import Dataset, load_data
from mlp.engine.cuda_steps import IS_SIMULATED, count_gpus
from mlp.engine.population import train
from mlp.errors import MlpError
from mlp.settings import read_run

WORKS = (1, [3, 3]), (32, [3, 3]), (256, [3, 3]), (1024, [3, 3]), (32, [32, 32]), (4, [256, 128])
CHECKED = 4  # networks whose bits are compared
CHECKED_STEPS = 10


def configs_of(name: str, n: int, widths: list[int], steps: int) -> list[RunConfig]:
    """Networks that differ in their seeds."""
    return [
        read_run(
            {
                "data": {"name": name},
                "model": {"depth": len(widths), "widths": widths},
                "training": {"steps": steps, "seed": seed, "evaluate_every": steps},
            }
        )
        for seed in range(n)
    ]


def step_ms(configs: list[RunConfig], data: Dataset) -> float:
    """Milliseconds of a step of all networks, compiling and copying left out."""
    seen: list[tuple[float, int]] = []
    train(configs, data, gpu=0, progress=lambda n, _: seen.append((time.time(), n)))
    (began, first), (ended, last) = seen[0], seen[-1]
    return (ended - began) / (last - first) * len(configs) * 1e3 if last > first else float("nan")


def has_bits(configs: list[RunConfig], data: Dataset) -> bool:
    """Whether losses and weights are those of the CPU."""
    pairs = zip(train(configs, data), train(configs, data, gpu=0), strict=True)
    return all(
        here.loss.tobytes() == there.loss.tobytes()
        and [W.tobytes() for W, _ in here.weights] == [W.tobytes() for W, _ in there.weights]
        for here, there in pairs
    )


def main(name: str, steps: int, most: int) -> None:
    """Measures and prints."""
    count_gpus()
    data = load_data(read_run({"data": {"name": name}}).data, notice=print)
    card = "simulated" if IS_SIMULATED else str(cuda.get_current_device().name)
    found: dict[str, object] = {"card": card}
    for n, widths in WORKS:
        if n > most:
            continue
        title = f"{n} x {'-'.join(map(str, (data.train.pixels.shape[1], *widths, 2)))}"
        checked = configs_of(name, min(n, CHECKED), widths, min(steps, CHECKED_STEPS))
        same = has_bits(checked, data)
        ms = step_ms(configs_of(name, n, widths, steps), data)
        print(f"{title}: {ms:.3g} ms a step, bits {'as' if same else 'NOT as'} on the CPU")
        found[title] = {"ms": ms, "same": same}
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10**6)
    except MlpError as error:
        sys.exit(f"error: {error}")

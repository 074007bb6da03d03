"""How often the audit names each kind of mistake.

usage: python scripts/audit_kinds.py [networks a kind] [right networks] [part of a kind]
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mlp.audit.audit_gradient import audit_gradient
from support.backpropagations import KINDS, draw, make_gradient, make_loss, plant, random_net


def named(name, seed):
    """What an audit calls the mistake in a random network, and the network."""
    random = np.random.RandomState(seed)
    net, layers = plant(name, random)
    params, X, y = draw(net, random)
    flaws = audit_gradient(make_loss(net), make_gradient(net, name, layers), params, X, y)
    return [flaw.kind for flaw in flaws], (net, layers)


def false_findings(seed):
    """What an audit finds in a random network that is right."""
    random = np.random.RandomState(seed)
    net = random_net(random, squarish=random.rand() < 0.3, decay=[0.0, 0.0, 0.01][seed % 3])
    flaws = audit_gradient(make_loss(net), make_gradient(net), *draw(net, random))
    return [flaw.kind for flaw in flaws], net


def main():
    n, n_right = (int(word) for word in [*sys.argv[1:], "20", "100"][:2])
    begun = time.process_time()
    total = 0
    for name, kind in KINDS.items():
        if len(sys.argv) > 3 and sys.argv[3] not in name:
            continue
        hits, missed = 0, {}
        for seed in range(n):
            found, net = named(name, seed)
            if found and found[0] in kind.names and len(found) == 1:
                hits += 1
            else:
                missed.setdefault(tuple(found), net)
        total += hits
        print(f"{100 * hits / n:5.0f} %  {name:45} {list(missed.items())[:2] if missed else ''}")
    wrong = [(seed, found) for seed in range(n_right) if (found := false_findings(seed))[0]]
    print(
        f"{len(KINDS)} kinds, {n} networks each; false findings: {len(wrong)} of {n_right}",
        wrong[:3],
    )
    print(f"{time.process_time() - begun:.0f} s")


if __name__ == "__main__":
    main()

"""Prints how the judge and the published rules agree with the labels: the tables of the README.

cd tests && python -m curves.compare
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from curves.collection import Labelled, judged, load
from curves.peers import autotrainer, bttackler, deep_checker
from mlp.curve import Verdict

Rule = Callable[[Labelled], bool | None]  # whether the curve oscillates; None: cannot say


def main() -> None:
    curves = load()
    splits = {curve.split: [c for c in curves if c.split == curve.split] for curve in curves}
    for title, part in splits.items():
        print(f"\n{title}: {len(part)} curves\n\n{_confusion(part)}")
    for title, part in (*splits.items(), ("all", curves)):
        print(f"\noscillating or not, {title}\n\n{_scores(part)}")


def _verdict(curve: Labelled) -> Verdict:
    return judged(curve).verdict


def _confusion(curves: Sequence[Labelled]) -> str:
    pairs = Counter((curve.label, _verdict(curve).value) for curve in curves)
    names = [verdict.value for verdict in Verdict]
    n_right = sum(pairs[name, name] for name in names)
    rows = [
        f"| {label} | " + " | ".join(str(pairs[label, name] or ".") for name in names) + " |"
        for label in names
    ]
    misses = [
        f"{curve.name} ({curve.label}, judged {_verdict(curve).value})"
        for curve in curves
        if _verdict(curve).value != curve.label
    ]
    return "\n".join(
        [
            "| seen, judged: | " + " | ".join(names) + " |",
            "| --- |" + " ---: |" * len(names),
            *rows,
            "",
            f"Agreement {n_right} of {len(curves)} = {n_right / len(curves):.1%}; "
            f"missed: {', '.join(misses)}",
        ]
    )


RULES: dict[str, Rule] = {
    "this judge": lambda curve: _verdict(curve) == Verdict.OSCILLATING,
    "TheDeepChecker, fluctuating": lambda curve: deep_checker(_finite(curve)),
    "BTTackler, heavy oscillation": lambda curve: bttackler(_finite(curve)),
    "AUTOTRAINER, oscillating": lambda curve: (
        None if curve.accuracy is None else autotrainer(curve.accuracy)
    ),
}


def _finite(curve: Labelled) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(curve.loss))
    return curve.loss[: bad[0]] if bad.size else curve.loss


def _scores(curves: Sequence[Labelled]) -> str:
    rows = [
        "| rule | curves | right | found | false alarms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rule in RULES.items():
        said = [(rule(curve), curve.label) for curve in curves if curve.label != "diverged"]
        known = [(says, label == "oscillating") for says, label in said if says is not None]
        if not known:
            continue
        n_right = sum(says == is_so for says, is_so in known)
        n_found = sum(bool(says) and is_so for says, is_so in known)
        n_so = sum(is_so for _, is_so in known)
        n_false = sum(bool(says) and not is_so for says, is_so in known)
        rows.append(
            f"| {name} | {len(known)} | {n_right / len(known):.0%} | {n_found} of {n_so} | "
            f"{n_false} of {len(known) - n_so} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()

"""`python -m mlp.audit FILE.py`: is its backpropagation right, and if not, which line is wrong?"""

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from mlp.audit.own_process import audit_file
from mlp.errors import MlpError, SettingError, did_you_mean, one_line
from mlp.terminal.console import run_command

WRONG = 1  # exit code

_TIMEOUT_S = 60.0

_TYPED = {
    "gradient": "the function, or method, that gives the gradient",
    "loss": "the function that gives the loss, or an expression of params, X and y",
    "params": "the weights: a global name, a function that makes them, or an expression",
    "model": "a class with such methods, or an expression that makes its object",
    "train": "a function that trains and returns its weights, or a call of it",
    "forward": "the function that gives outputs and cache to the others",
    "X": "an expression for examples, where the file's own cannot be had",
    "y": "an expression for their labels",
}

_USAGE = (
    """usage: python -m mlp.audit FILE.py [name=value ...]

Compares a hand-written gradient with differences of its loss, layer by layer, and names the formula
that stands where another is due. FILE.py is executed as far as its functions need, in a process of
its own. Exits with 1 where something is wrong.

examples:
  python -m mlp.audit mine.py
      functions loss(params, X, y) and gradient(params, X, y), a class with such methods, or a
      function that trains, returns its weights and has an argument for the number of passes
  python -m mlp.audit mine.py gradient=my_backprop loss=my_cost
      which function is which, where the names are not the usual ones
  python -m mlp.audit mine.py model='Network([4, 3, 2])' loss='np.mean((model.forward(X) - y)**2)'
      an object of a class, and a loss that the file does not have

what can be typed:
"""
    + "\n".join(f"  {name:<9} {what}" for name, what in _TYPED.items())
    + f"""
  timeout_s deadline in seconds ({_TIMEOUT_S:g})
  json      true: one object in place of sentences"""
)


def _audit() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return
    files = [word for word in arguments if "=" not in word]
    if len(files) != 1:
        said = f"but there are {len(files)}: {', '.join(files)}" if files else "but there is none"
        raise SettingError(f"one file is audited at a time, {said}; python -m mlp.audit FILE.py")
    typed = dict(word.split("=", 1) for word in arguments if "=" in word)
    timeout_s, as_json = _timeout(typed.pop("timeout_s", "")), _flag(typed.pop("json", "false"))
    known = [*_TYPED, "timeout_s", "json"]
    for name in (name for name in typed if name not in known):
        hint = did_you_mean(name, known, f"known are {', '.join(known)}")
        raise SettingError(f"unknown name {name!r}{hint}")
    found = audit_file(Path(files[0]), typed, timeout_s=timeout_s)
    again = shlex.join(["python", "-m", "mlp.audit", *arguments])
    if as_json:
        print(json.dumps(found))
    else:
        print("\n".join(_lines(found, files[0], again)))
    if found["flaws"]:
        sys.exit(WRONG)


def _timeout(text: str) -> float:
    try:
        seconds = float(text or _TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise SettingError(f"timeout_s must be seconds above 0, but is {one_line(text)!r}")
    return seconds


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise SettingError(f"json must be true or false, but is {one_line(text)!r}")
    return text == "true"


def _lines(found: dict[str, Any], file: str, again: str) -> list[str]:
    """What was found, for a person."""
    network = found["network"] or "none of the known formulas; only differences can be taken"
    lines = [f"{file}: {found['said']}", f"loss: {network}", *found["notes"], ""]
    flaws = found["flaws"]
    if not flaws:
        n, total = found["n_checked"], found["n_entries"]
        share = f"{n}" if n == total else f"{n} of {total}"
        return [
            *lines,
            f"right: the gradient is that of the loss; largest relative error {found['error']:.1g},"
            f" in {share} entries",
            "next: if the loss swings all the same, it is the size of the step: try a tenth of it",
            *_training(file),
        ]
    one = "one thing is" if len(flaws) == 1 else f"{len(flaws)} things are"
    angle = found["angle"]
    away = f"; it points {angle:.0f} degrees away from the loss's" if angle >= 1 else ""
    lines.append(f"wrong: {one} wrong with the gradient{away}")
    for place, flaw in enumerate(flaws, start=1):
        lines.append(f"{place}. {flaw['sentence']}")
        lines += [f"   line {number}: {code}" for number, code in flaw["lines"]]
        lines += [f"   {flaw['meaning']}", f"   {flaw['remedy']}"]
    lines += ["next: mend the first, then ask again", f"  {again}", *_training(file)]
    return lines


def _training(file: str) -> list[str]:
    """What to type where the file has a function that yields its losses."""
    from mlp.program import read_program

    try:
        _, path = read_program(file)
    except MlpError:
        return []
    if not any(line.lstrip().startswith("yield ") for line in path.read_text().splitlines()):
        return []
    return [f"  python -m mlp.explain {file}   # does its loss swing, and why?"]


main = functools.partial(run_command, _audit)

if __name__ == "__main__":
    main()

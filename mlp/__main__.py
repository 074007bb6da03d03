"""`python -m mlp`: lists the commands."""

import sys

_COMMANDS = {
    "sweep": "search a space of settings, track every run, say which settings oscillate",
    "train": "train and track one run",
    "explain": "say which settings make the loss oscillate, and prove it by reruns",
    "judge": "say what any loss curve did: a file, standard input, a run of MLflow",
    "rerun": "train a tracked run again: identical, or what differs",
    "audit": "hold a hand-written backpropagation against its loss: which line is wrong",
    "doctor": "look for what is wrong with stores, spool, locks and data, and mend it",
}


def main() -> None:
    """The command."""
    print("usage: python -m mlp.COMMAND [setting=value ...]\n")
    for name, what in _COMMANDS.items():
        print(f"  {name:<7} {what}")
    print("\nhelp of one: python -m mlp.COMMAND --help   first: python -m mlp.sweep sweeps=smoke")
    if sys.argv[1:] not in ([], ["--help"], ["-h"]):
        sys.exit(2)


if __name__ == "__main__":
    main()

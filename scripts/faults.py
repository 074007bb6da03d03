"""Plants faults, one at a time, and says which tests catch them.

    python scripts/faults.py                        all of them
    python scripts/faults.py "wrong sign" flush     those whose names hold one of these words
    python scripts/faults.py --tree ../old          in another checkout, by its own tests
    python scripts/faults.py --tree ../old --tree . in both, for a table of two columns
    python scripts/faults.py --check                whether each fault has its place in mlp/

A fault is planted in a copy of the checkout. The files of tests that are named beside it run first,
as part of the first tier; then, where they find nothing and `--whole` is given, the whole first
tier. A test that failed counts only if it passes without any fault, which is tried at the end.

A fault says what stands in mlp/ and what stands there instead, and where the code was written
otherwise at some time, that as well; a text is looked for in all modules and must be there exactly
once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILED = ".compiled"  # folder in a copy for the engine's compiled code
NO_PLACE = "no place here"
# A plugin: the first example that fails is enough.
UNSHRUNK = """
from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
settings.load_profile("unshrunk")  # that of conftest.py is made from it
"""


@dataclass(frozen=True)
class Fault:
    """A mistake that somebody could make.

    Attributes:
        name: what is wrong.
        tests: files whose subject it is, each perhaps with one test of it.
        changes: what stands in the code, and what in its place; the first that is there is made.
    """

    name: str
    tests: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]


def fault(name: str, tests: str, *texts: str) -> Fault:
    """Names of files, without `test_` and `.py`; then old and new texts in turns."""
    return Fault(name, tuple(tests.split()), tuple(zip(texts[::2], texts[1::2], strict=True)))


FAULTS = (
    # The network and its gradient
    fault(
        "wrong sign of the output's gradient",
        "network",
        "np.where(is_right, -wrong[:, None], wrong[:, None])",
        "np.where(is_right, wrong[:, None], -wrong[:, None])",
    ),
    fault(
        "he_normal with the deviation of lecun_normal",
        "network",
        "math.sqrt(2 / fan_in)",
        "math.sqrt(1 / fan_in)",
    ),
    fault(
        "clip looks at the norm of the sum",
        "gradient",
        "is_long = global_norm(mean) > gradient.clip_norm",
        "is_long = global_norm(grads_sum) > gradient.clip_norm",
    ),
    # The engine
    fault(
        "engine: last block of rows of a chunk left out",
        "population::test_the_questions_first_25_losses_on_mnist",
        "for block in range(begin, end):",
        "for block in range(begin, max(begin + 1, end - 1)):",
    ),
    fault(
        "engine: every other pixel of a row left out",
        "population::test_full_batch_equals_a_plain_loop",
        "return even + odd",
        "return even",
    ),
    fault("engine: dropped flush of subnormals", "subnormal", "_FLUSH = 0x8040", "_FLUSH = 0x0000"),
    fault(
        "engine: mean over one example too many",
        "population::test_full_batch_equals_a_plain_loop",
        "return float(n_examples), 1.0",
        "return float(n_examples + 1), 1.0",
    ),
    fault(
        "engine: a neighbour's column in a trial's norm",
        "population::test_a_trial_does_not_notice_the_others "
        "packing::test_a_trial_is_the_same_alone_and_in_any_population",
        "range(c, c + job.width[trial, 0]):\n        total +=",
        "range(c, c + job.width[trial, 0] + 1):\n        total +=",
    ),
    fault(
        "engine: lost weights forgotten where trials are packed anew",
        "population::test_weights_that_are_lost_stay_so_where_a_neighbour_ends",
        'for name in ("watched", "is_broken"):',
        'for name in ("watched",):',
    ),
    fault(
        "engine: sigmoid of negative numbers",
        "elementary",
        "return where_less(x, like(x, 0.0), e * upper, upper)",
        "return where_less(x, like(x, 0.0), upper, upper)",
    ),
    fault(
        "engine: momentum of the first layer left out",
        "population::test_full_batch_equals_a_plain_loop",
        "v = momentum * load(velocity, place, NARROW) + g\n",
        "v = g\n",
    ),
    # Verdicts
    fault(
        "climbing and learning swapped",
        "curve",
        "return Verdict.CLIMBING if drift > 0 else Verdict.LEARNING",
        "return Verdict.LEARNING if drift > 0 else Verdict.CLIMBING",
        "        return Verdict.CLIMBING\n    if drift < -seen:\n        return Verdict.LEARNING\n",
        "        return Verdict.LEARNING\n    if drift < -seen:\n        return Verdict.CLIMBING\n",
    ),
    fault(
        "stalled and converged swapped",
        "curve",
        "return Verdict.STALLED if is_high else Verdict.CONVERGED",
        "return Verdict.CONVERGED if is_high else Verdict.STALLED",
    ),
    fault(
        "swings that die out go on",
        "curve",
        "return float(late.max()) >= DYING_RATIO * float(early.max())",
        "return True",
    ),
    fault(
        "a chart's points without the lowest of each part",
        "display",
        "kept += [start + int(bucket.argmax()), end - 1 - int(bucket[::-1].argmin())]",
        "kept += [start + int(bucket.argmax()), end - 1]",
    ),
    # Settings
    fault(
        "widths that do not fit the depth pass the door",
        "door config",
        "if isinstance(self.widths, tuple) and len(self.widths) != self.depth:",
        "if isinstance(self.widths, tuple) and len(self.widths) > self.depth:",
    ),
    fault(
        "a learning rate of zero passes the door",
        "door config",
        '    if value <= 0:\n        raise ValueError(f"must be greater than 0',
        '    if value < 0:\n        raise ValueError(f"must be greater than 0',
    ),
    fault(
        "an unknown setting is dropped in silence",
        "door",
        "            raise SettingError(unknown_setting(path, setting_paths()))\n",
        "            continue\n",
    ),
    fault(
        "passwords are shown",
        "store_uri console",
        r'_USER_AND_SECRET.sub(r"\g<head>:***@", text)',
        "text",
    ),
    # Data
    fault(
        "the validation part stays in the training part",
        "data",
        "return _rows(part, ~held_out), _rows(part, held_out)",
        "return part, _rows(part, held_out)",
    ),
    fault(
        "MNIST's labels the other way round",
        "data",
        "labels=(labels[chosen] == _SEVEN).astype(np.uint8)",
        "labels=(labels[chosen] == _THREE).astype(np.uint8)",
    ),
    # The search
    fault(
        "the sampler is seeded the same for each trial",
        "search",
        'f"{study.seed}/{number}"',
        'f"{study.seed}"',
    ),
    fault(
        "a generation sees its own trials",
        "search",
        "_sample(search, stored[:first], numbers)",
        "_sample(search, stored, numbers)",
        "earlier=stored[:first]",
        "earlier=stored",
    ),
    fault(
        "the worst trial is the best",
        "search sweep",
        'sign = 1 if DIRECTIONS[search.config.objective] == "minimize" else -1',
        'sign = -1 if DIRECTIONS[search.config.objective] == "minimize" else 1',
        'sign = 1 if direction_of(objective) == "minimize" else -1',
        'sign = -1 if direction_of(objective) == "minimize" else 1',
    ),
    fault(
        "pruned at the last step, too",
        "search",
        "if WARMUP_SHARE * steps < step < steps",
        "if WARMUP_SHARE * steps < step <= steps",
    ),
    # Tracking
    fault(
        "the spool forgets what is put into it",
        "spool",
        "            part.rename(place)\n",
        "            shutil.rmtree(part)\n",
        "_unfinished_of(spool, number).rename(place)",
        "shutil.rmtree(_unfinished_of(spool, number))",
        "unfinished_of(spool, number).rename(place)",
        "shutil.rmtree(unfinished_of(spool, number))",
    ),
    fault(
        "a run that is recorded is recorded again",
        "runs publish drain",
        'if known is not None and known.info.status == "FINISHED":\n'
        "            return str(known.info.run_id)\n",
        "known = None\n",
    ),
    fault(
        "files that were changed are believed",
        "runs::test_a_run_that_was_changed_is_refused",
        "if run.data.tags.get(name) != digest:",
        "if name not in run.data.tags:",
        'if run.data.tags.get(f"mlp.{name}") != digest:',
        'if f"mlp.{name}" not in run.data.tags:',
    ),
    # The rerun
    fault(
        "a rerun compares only lengths",
        "rerun::test_equal_nans_are_identical_and_zeros_of_two_signs_are_not",
        "if step != other_step or a.tobytes() != b.tobytes():",
        "if step != other_step:",
    ),
    fault(
        "a rerun does not compare weights",
        "rerun::test_weights_are_compared_layer_by_layer",
        "                _first_weight(old, new),\n",
        "                None,\n",
        "        or _first_weight(old, new)\n",
        "",
    ),
    # Causes and mechanism
    fault(
        "the stability ratio without momentum",
        "ratio",
        "np.asarray(sharpness, np.float64) / (2 * (1 + config.optimizer.momentum))",
        "np.asarray(sharpness, np.float64) / 2",
    ),
    fault(
        "for and against swapped in the pairs",
        "evidence attribution",
        "d, m = n_with - n_against, n_pairs + 2",
        "d, m = n_against - n_with, n_pairs + 2",
    ),
    fault(
        "evidence is not paid for by the number of hypotheses",
        "evidence attribution reproduction",
        "(len(self.comparisons) * own.p_value for",
        "(own.p_value for",
        "min(1.0, (n - rank) * p_values[index])",
        "min(1.0, p_values[index])",
    ),
)


def main() -> int:
    """The command; 0 where every fault was caught in the last of the checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of faults' names; without any, all")
    parser.add_argument("--tree", type=Path, action="append", help="a checkout to plant them in")
    parser.add_argument("--whole", action="store_true", help="all tests for what is not found")
    parser.add_argument("--check", action="store_true", help="only look for their places")
    asked = parser.parse_args()
    trees = [tree.resolve() for tree in asked.tree or [ROOT]]
    chosen = [f for f in FAULTS if not asked.names or any(n in f.name for n in asked.names)]
    if asked.check:
        lost = [f.name for f in chosen if any(place_of(f, tree) is None for tree in trees)]
        print(f"{len(chosen) - len(lost)} faults have their place", *lost, sep="\n  without: ")
        return int(bool(lost))
    print(f"| fault | {' | '.join(f'caught in {tree.name} by' for tree in trees)} |")
    print("| --- |" + " --- |" * len(trees), flush=True)
    with tempfile.TemporaryDirectory(prefix="mlp-faults-") as folder:
        copies = [copied(tree, Path(folder) / f"tree{n}") for n, tree in enumerate(trees)]
        caught = {}
        for each in chosen:
            for tree in copies:
                caught[each, tree] = caught_by(each, tree, whole=asked.whole)
            found = [caught[each, tree] or "**nothing**" for tree in copies]
            print(f"| {each.name} | {' | '.join(found)} |", flush=True)
        for tree, name in zip(copies, trees, strict=True):
            tests = sorted({caught[each, tree] for each in chosen} - {"", NO_PLACE})
            broken = {test for test in tests if run(tree, ["-n0", test], tree / COMPILED)}
            n = sum(caught[each, tree] not in {"", NO_PLACE, *broken} for each in chosen)
            print(f"{n} of {len(chosen)} are caught in {name}; without any fault", end=" ")
            print(f"these fail, too: {sorted(broken)}" if broken else "these tests pass")
    return int(n < len(chosen))


def caught_by(each: Fault, tree: Path, *, whole: bool) -> str:
    """The first test that fails with a fault in a checkout; empty if none does."""
    words = []
    for name, separator, test in (word.partition("::") for word in each.tests):
        found = sorted((tree / "tests").rglob(f"test_{name}.py"))
        words += [f"{file.relative_to(tree)}{separator}{test}" for file in found]
    with planted(each, tree) as file:
        if file is None:
            return NO_PLACE
        # Numba looks at the file that a function stands in, not at those that it calls.
        is_engine = file.parent.name == "engine"
        with tempfile.TemporaryDirectory(dir=tree.parent) as own:
            compiled = Path(own) if is_engine else tree / COMPILED
            found = run(tree, ["-n0", *words], compiled) if words else ""
            return found or (run(tree, [], compiled) if whole else "")


def copied(tree: Path, to: Path) -> Path:
    """A copy of what Git knows of a checkout."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (tree / name).is_file(), listed.stdout.splitlines()):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / name, to / name)
    return to


def place_of(each: Fault, tree: Path) -> tuple[Path, str, str] | None:
    """File, old and new text of the first change whose old text is in one place of mlp/."""
    files = {file: file.read_text() for file in sorted((tree / "mlp").rglob("*.py"))}
    for old, new in each.changes:
        holding = [file for file, text in files.items() if old in text]
        if len(holding) == 1 and files[holding[0]].count(old) == 1:
            return holding[0], old, new
    return None


@contextmanager
def planted(each: Fault, tree: Path) -> Iterator[Path | None]:
    """The file with the fault in it, while it is there; None where it has no place."""
    place = place_of(each, tree)
    if place is None:
        yield None
        return
    file, old, new = place
    text = file.read_text()
    file.write_text(text.replace(old, new))
    try:
        yield file
    finally:
        file.write_text(text)


def run(tree: Path, words: list[str], compiled: Path) -> str:
    """The first test that fails, empty if none does.

    Args:
        tree: the checkout.
        words: for pytest.
        compiled: folder of the engine's compiled code.
    """
    (tree.parent / "unshrunk.py").write_text(UNSHRUNK)
    path = os.pathsep.join(map(str, (tree, tree.parent)))
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(compiled)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "unshrunk",
            *words,
        ],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^(?:FAILED|ERROR) (.+?\.py(?:::.+?)?)(?: - |$)", done.stdout, re.MULTILINE)
    is_well = done.returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert bool(found) != is_well, done.stdout[-3000:] + done.stderr[-3000:]
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())

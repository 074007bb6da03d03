"""Plants faults, one at a time, and says which tests catch them.

    python scripts/faults.py                        all of them, by the first tier
    python scripts/faults.py "wrong sign" flush     those whose names hold one of these words
    python scripts/faults.py -- -m system           further words for pytest
    python scripts/faults.py --tree ../old          those of another checkout, by its own tests
    python scripts/faults.py --check                whether each fault has its place in mlp/

Each is planted in a copy of the checkout. A fault says what stands in mlp/ and what stands there
instead, and where the code was written otherwise at some time, that as well; a text is looked for
in all modules and must be there exactly once. A first run without any fault must find nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Fault:
    """A mistake that somebody could make.

    Attributes:
        name: what is wrong.
        changes: what stands in the code, and what in its place; the first that is there is made.
    """

    name: str
    changes: tuple[tuple[str, str], ...]


def fault(name: str, *texts: str) -> Fault:
    """Old and new texts in turns."""
    return Fault(name, tuple(zip(texts[::2], texts[1::2], strict=True)))


FAULTS = (
    # The network and its gradient
    fault(
        "wrong sign of the output's gradient",
        "np.where(is_right, -wrong[:, None], wrong[:, None])",
        "np.where(is_right, wrong[:, None], -wrong[:, None])",
    ),
    fault(
        "he_normal with the deviation of lecun_normal",
        "math.sqrt(2 / fan_in)",
        "math.sqrt(1 / fan_in)",
    ),
    fault(
        "clip looks at the norm of the sum",
        "is_long = global_norm(mean) > gradient.clip_norm",
        "is_long = global_norm(grads_sum) > gradient.clip_norm",
    ),
    # The engine
    fault(
        "engine: last block of rows of a chunk left out",
        "for block in range(begin, end):",
        "for block in range(begin, max(begin + 1, end - 1)):",
    ),
    fault(
        "engine: every other pixel of a row left out",
        "store(target, r * tile, even + odd)",
        "store(target, r * tile, even)",
    ),
    fault("engine: dropped flush of subnormals", "_FLUSH = 0x8040", "_FLUSH = 0x0000"),
    fault(
        "engine: mean over one example too many",
        "return float(n_examples), 1.0",
        "return float(n_examples + 1), 1.0",
    ),
    fault(
        "engine: a neighbour's column in a trial's norm",
        "columns = slice(c, c + job.width[t, 0])",
        "columns = slice(c, c + job.width[t, 0] + 1)",
    ),
    fault(
        "engine: sigmoid of negative numbers",
        "return where_less(x, like(x, 0.0), e * upper, upper)",
        "return where_less(x, like(x, 0.0), upper, upper)",
    ),
    fault(
        "engine: momentum of the first layer left out",
        "v = momentum * load(velocity, place, NARROW) + g",
        "v = g",
    ),
    # Verdicts
    fault(
        "climbing and learning swapped",
        "return Verdict.CLIMBING if drift > 0 else Verdict.LEARNING",
        "return Verdict.LEARNING if drift > 0 else Verdict.CLIMBING",
        "        return Verdict.CLIMBING\n    if drift < -seen:\n        return Verdict.LEARNING\n",
        "        return Verdict.LEARNING\n    if drift < -seen:\n        return Verdict.CLIMBING\n",
    ),
    fault(
        "stalled and converged swapped",
        "return Verdict.STALLED if is_high else Verdict.CONVERGED",
        "return Verdict.CONVERGED if is_high else Verdict.STALLED",
    ),
    fault(
        "swings that die out go on",
        "return float(late.max()) >= DYING_RATIO * float(early.max())",
        "return True",
    ),
    fault(
        "a chart's points without the lowest of each part",
        "kept += [start + int(bucket.argmax()), end - 1 - int(bucket[::-1].argmin())]",
        "kept += [start + int(bucket.argmax()), end - 1]",
    ),
    # Settings
    fault(
        "widths that do not fit the depth pass the door",
        "if isinstance(self.widths, tuple) and len(self.widths) != self.depth:",
        "if isinstance(self.widths, tuple) and len(self.widths) > self.depth:",
    ),
    fault(
        "a learning rate of zero passes the door",
        'learning_rate: Annotated[_Float, Field(gt=0, description="step size")]',
        'learning_rate: Annotated[_Float, Field(ge=0, description="step size")]',
    ),
    fault(
        "an unknown setting is dropped in silence",
        "            raise SettingError(unknown_setting(path, setting_paths()))\n",
        "            continue\n",
    ),
    fault(
        "passwords are shown",
        r'_USER_AND_SECRET.sub(r"\g<head>:***@", text)',
        "text",
    ),
    # Data
    fault(
        "the validation part stays in the training part",
        "return _rows(part, ~held_out), _rows(part, held_out)",
        "return part, _rows(part, held_out)",
    ),
    fault(
        "MNIST's labels the other way round",
        "labels=(labels[chosen] == _SEVEN).astype(np.uint8)",
        "labels=(labels[chosen] == _THREE).astype(np.uint8)",
    ),
    # The search
    fault(
        "the sampler is seeded the same for each trial",
        'f"{study.seed}/{number}"',
        'f"{study.seed}"',
    ),
    fault(
        "a generation sees its own trials",
        "earlier=stored[:first]",
        "earlier=stored",
    ),
    fault(
        "the worst trial is the best",
        'sign = 1 if DIRECTIONS[search.config.objective] == "minimize" else -1',
        'sign = -1 if DIRECTIONS[search.config.objective] == "minimize" else 1',
    ),
    fault(
        "pruned at the last step, too",
        "if WARMUP_SHARE * steps < step < steps",
        "if WARMUP_SHARE * steps < step <= steps",
    ),
    # Tracking
    fault(
        "the spool forgets what is put into it",
        "            part.rename(place)\n",
        "            shutil.rmtree(part)\n",
        "_unfinished_of(spool, number).rename(place)",
        "shutil.rmtree(_unfinished_of(spool, number))",
        "unfinished_of(spool, number).rename(place)",
        "shutil.rmtree(unfinished_of(spool, number))",
    ),
    fault(
        "a run that is recorded is recorded again",
        'if known is not None and known.info.status == "FINISHED":\n'
        "            return str(known.info.run_id)\n",
        "known = None\n",
    ),
    fault(
        "files that were changed are believed",
        "if run.data.tags.get(name) != digest:",
        "if name not in run.data.tags:",
    ),
    # The rerun
    fault(
        "a rerun compares only lengths",
        "if step != other_step or a.tobytes() != b.tobytes():",
        "if step != other_step:",
    ),
    fault(
        "a rerun does not compare weights",
        "                _first_weight(old, new),\n",
        "                None,\n",
    ),
    # Causes and mechanism
    fault(
        "the stability ratio without momentum",
        "np.asarray(sharpness, np.float64) / (2 * (1 + config.optimizer.momentum))",
        "np.asarray(sharpness, np.float64) / 2",
    ),
    fault(
        "for and against swapped in the pairs",
        "d, m = n_with - n_against, n_pairs + 2",
        "d, m = n_against - n_with, n_pairs + 2",
    ),
    fault(
        "evidence is not paid for by the number of hypotheses",
        "min(1.0, (n - rank) * p_values[index])",
        "min(1.0, p_values[index])",
    ),
)


def main() -> int:
    """The command; 0 where every fault was caught."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of faults' names; without any, all")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to plant them in")
    parser.add_argument("--check", action="store_true", help="only look for their places")
    asked = parser.parse_args(words[:end])
    chosen = [f for f in FAULTS if not asked.names or any(n in f.name for n in asked.names)]
    if asked.check:
        lost = [f.name for f in chosen if place_of(f, asked.tree) is None]
        print(f"{len(chosen) - len(lost)} faults have their place", *lost, sep="\n  without: ")
        return int(bool(lost))
    n_missed = 0
    with tempfile.TemporaryDirectory(prefix="mlp-faults-") as folder:
        tree = copied(asked.tree.resolve(), Path(folder) / "tree")
        compiled = Path(folder) / "compiled"
        caught, seconds = run(tree, words[end + 1 :], compiled)
        assert not caught, f"without any fault there are failures: {caught}"
        print(f"| fault | caught by |\n| --- | --- |\n| none ({seconds:.0f} s) | |", flush=True)
        for each in chosen:
            with planted(each, tree) as file:
                if file is None:
                    print(f"| {each.name} | has no place here |", flush=True)
                    continue
                # Numba looks at the file that a function stands in, not at those that it calls.
                is_engine = file.parent.name == "engine"
                own = Path(tempfile.mkdtemp(dir=folder)) if is_engine else compiled
                caught, _ = run(tree, words[end + 1 :], own)
            n_missed += not caught
            print(f"| {each.name} | {', '.join(caught) or '**nothing**'} |", flush=True)
    return int(n_missed > 0)


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


def run(tree: Path, words: list[str], compiled: Path) -> tuple[list[str], float]:
    """Names of the first tests that fail, and the seconds it took.

    Args:
        tree: the checkout.
        words: for pytest.
        compiled: folder of the engine's compiled code.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(compiled)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(?:FAILED|ERROR) \S*?([\w.]+\.py(?:::\w+)*)", done.stdout, re.MULTILINE)
    assert bool(found) == bool(done.returncode), done.stdout[-3000:] + done.stderr[-3000:]
    return list(dict.fromkeys(found)), time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())

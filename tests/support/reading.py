"""What a README asks its reader to type, and a reader that types it."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from support import forks

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_CALL = re.compile(r"(mlp|np|mlflow)\.[\w.]+\(.*\)")  # inline, but there to be typed
_TYPED = ("console", "bash", "sh", "shell")
_SUGGESTED = re.compile(r"(?:^ *| or )((?:python3? -m|mlflow|optuna[\w-]*|pip|curl) \S.*)")
_NAMES = re.compile(r"\b[0-9a-f]{32}\b|\b[a-z]\w*-[0-9a-f]{8}\b")  # of runs and of studies
_PATHS = re.compile(r"(sqlite://)?(?<![\w.])/\S+")
_NUMBERS = re.compile(r"-?\d[\d,]*(\.\d+)?(e[-+]?\d+)?( ?%)?|·")


@dataclass(frozen=True)
class Step:
    """Something to type.

    Attributes:
        kind: command, python (a block), call (a line of Python in the text), or file.
        text: as the README has it.
        line: of the README, from 1.
        shown: what the README says is printed then.
    """

    kind: str
    text: str
    line: int
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """How a command ended, and its output and errors together."""

    code: int
    text: str


def steps(readme: str) -> list[Step]:
    """All that a README asks to type, in its order."""
    found: list[Step] = []
    end = 0
    for fence in _FENCE.finditer(readme):
        found += _inline(readme, end, fence.start())
        end = fence.end()
        language, body = fence.groups()
        line = readme.count("\n", 0, fence.start()) + 2
        if language in _TYPED:
            found += _typed(body, line)
        elif language == "python":
            found.append(Step("python", body, line, _printed(body)))
        elif language == "text":
            shown = tuple(body.splitlines())
            if "..." in shown and not found[-1].shown:  # cut short, so it is what was printed
                found[-1] = replace(found[-1], shown=shown)
            found += _suggested(shown, line)
        elif body.startswith("# ./"):
            found.append(Step("file", body, line))
    return found + _inline(readme, end, len(readme))


def words_of_code(readme: str) -> set[str]:
    """All that is set between backticks outside of blocks."""
    return set(_CODE.findall(_FENCE.sub("", readme)))


def _inline(readme: str, begin: int, end: int) -> list[Step]:
    line = readme.count("\n", 0, begin) + 1
    return [
        Step("call" if _CALL.fullmatch(m[1]) else "command", m[1], line)
        for m in _CODE.finditer(readme[begin:end])
        if _CALL.fullmatch(m[1]) or m[1].startswith("python -m ")
    ]


def _typed(body: str, line: int) -> list[Step]:
    """The commands of a block; with prompts, the lines between them are what was printed."""
    has_prompts = bool(re.search(r"^\$ ", body, re.MULTILINE))
    found: list[Step] = []
    suggested: list[Step] = []
    for number, text in enumerate(body.replace("\\\n", " " * 2).splitlines()):
        if has_prompts and not text.startswith("$ "):
            found[-1] = replace(found[-1], shown=(*found[-1].shown, text))
            suggested += _suggested([text], line + number)
        elif text.strip() and not text.startswith("#"):
            commands = re.split(r"\s&&\s", text.removeprefix("$ "))
            found += suggested
            found += [Step("command", " ".join(c.split()), line + number) for c in commands]
            suggested = []
    return found + suggested


def _suggested(printed: Sequence[str], line: int) -> list[Step]:
    """Commands in an output: what it says to type next."""
    found = []
    for number, text in enumerate(printed):
        if command := _SUGGESTED.search(text):
            found.append(Step("command", command[1], line + number))
    return found


def _printed(code: str) -> tuple[str, ...]:
    """What a comment below a `print` says that it prints."""
    lines = code.splitlines()
    return tuple(b[2:] for a, b in pairwise(lines) if a.startswith("print(") and b.startswith("# "))


def pairs_of_names(shown: tuple[str, ...], said: str) -> tuple[dict[str, str], list[str]]:
    """Finds the lines that the README shows in what was printed, whatever their numbers.

    Args:
        shown: lines of the README; `...` leaves lines out, or the rest of one.
        said: by the command.

    Returns:
        Names of runs and studies as shown, with those in their place; and the lines not found.
    """
    names: dict[str, str] = {}
    missing = []
    rest = said.splitlines()
    for line in shown:
        head, cut, _ = line.partition("...")
        if not head.strip():
            continue
        form = _form(head)
        for number, other in enumerate(rest):
            if _form(other) == form or (cut and _form(other).startswith(form.rstrip("#"))):
                names |= dict(zip(_NAMES.findall(head), _NAMES.findall(other), strict=False))
                rest = rest[number + 1 :]
                break
        else:
            missing.append(line)
    return names, missing


def _form(line: str) -> str:
    """A line without what differs from machine to machine, and from run to run.

    Example:
        >>> _form("loss 0.0311905 after 500 steps, in sqlite:////home/me/mlflow.db")
        'loss # after # steps, in #'
    """
    for pattern in (_NAMES, _PATHS, _NUMBERS):
        line = pattern.sub("#", line)
    # A busy machine says minutes where the README has seconds, and one thread where it has two.
    line = re.sub(r"# thread\b", "# threads", re.sub(r"# (s|min|h)\b", "# s", line))
    return " ".join(line.split())


def run_module(words: list[str], folder: Path, environment: Mapping[str, str]) -> Said:
    """Runs `python -m` with the words, in a process of its own."""
    done = forks.run_module(words, folder, environment, is_one_file=True)
    return Said(done.returncode, done.stdout)


def run_code(
    code: str, given: Mapping[str, str], folder: Path, environment: Mapping[str, str]
) -> Said:
    """Runs Python code in a process of its own.

    Where a line of its own is an expression, and its comment begins with a value, they are
    compared.

    Args:
        code: as in the README.
        given: names that it takes for granted, each with an expression.
        folder: to run it in.
        environment: of the process.
    """
    what = (code, dict(given))
    done = forks.run_in_fork(_as_script, what, folder, environment, is_one_file=True)
    return Said(done.returncode, done.stdout)


def _as_script(what: tuple[str, dict[str, str]]) -> None:
    code, given = what
    names: dict[str, object] = {}
    for name, expression in given.items():
        names[name] = eval(expression, names)
    for statement in ast.parse(code).body:
        source = ast.get_source_segment(code, statement) or ""
        if not isinstance(statement, ast.Expr):
            exec(source, names)
            continue
        value = eval(source, names)
        comment = code.splitlines()[statement.end_lineno - 1].partition("  # ")[2]
        for text in (comment, comment.partition(":")[0]):
            try:
                expected = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                continue
            assert value == expected, f"{source} is {value!r}"
            break

"""A user's own training function: its file, and its signature, which is the schema of its settings.

The file is only read and parsed here. It is executed in processes of its own, by
`mlp.training.own_worker`.
"""

import ast
import contextlib
import difflib
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlp.errors import DataError, MissingInputError, SettingError, one_line, shown

FUNCTION = "train"  # where nobody names another
ROLES: dict[str, tuple[str, ...]] = {
    "learning_rate": ("learning_rate", "lr"),
    "batch_size": ("batch_size",),
    "seed": ("seed", "random_state"),
    "steps": ("steps", "n_steps", "epochs", "n_epochs", "iterations", "n_iterations", "max_iter"),
}
"""What an argument can be to the search for causes -> the names by which that is known."""

GUARD = "guard"  # an argument of this name gets an `mlp.Guard`, and is no setting

_LAWS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "list": "a list",
}
_PLAIN = (bool, int, float, str, tuple)
_SEQUENCES = ("list", "tuple", "List", "Tuple", "Sequence")
NAMED_FILE = re.compile(r"(?P<path>.*\.py)(?::(?P<function>[^\W\d]\w*))?", re.DOTALL)
LARGEST_SOURCE = 10_000_000  # bytes
_MOST_LINES = 4  # of a difference
_LONGEST = 1_000  # characters of a value, as Python writes it: MLflow cuts longer texts
_INTEGERS = 2**63  # where those of other programs end
_RESERVED = ("file", "timeout_s", "roles", "changed")


@dataclass(frozen=True)
class Argument:
    """An argument of a training function: a setting.

    Attributes:
        kind: `bool`, `int`, `float`, `str`, `list`, or `any`.
        default: as the signature has it; None: it has none, or one that is computed.
        choices: the texts that it can be; empty: any.
        may_be_none: whether None is a value, too.
    """

    name: str
    kind: str
    default: Any = None
    is_required: bool = False
    choices: tuple[str, ...] = ()
    may_be_none: bool = False

    def checked(self, value: Any) -> Any:
        """The value as it is kept: integers as floats where a number is wanted, lists as tuples.

        Raises:
            SettingError: for a value of another kind.
        """
        if value is None and (self.may_be_none or (self.default is None and not self.is_required)):
            return None
        if self.kind == "float" and type(value) is int:
            value = float(value)
        if isinstance(value, list | tuple):
            value = _plain_list(self.name, value)
        if not self._fits(value):
            hint = ""
            if self.kind == "int" and isinstance(value, float):
                hint = f"; written {self.name}: float = ... in the function it can be any number"
            raise SettingError(
                f"own.{self.name} must be {self._law()}, but is {shown(value)}{hint}"
            )
        if not _can_be_kept(value):
            law = f"at most {_LONGEST} characters long, of finite numbers and texts without ${{"
            law = "a finite number of at most 63 bits" if isinstance(value, int | float) else law
            raise SettingError(
                f"own.{self.name} must be {law}, to be recorded, but is {shown(value)}"
            )
        return value

    def _fits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind == "any":
            return isinstance(value, _PLAIN)
        return type(value).__name__ == {"list": "tuple"}.get(self.kind, self.kind)

    def _law(self) -> str:
        law = _LAWS.get(self.kind, "a plain value")
        return f"one of {', '.join(self.choices)}" if self.choices else law


def _can_be_kept(value: Any) -> bool:
    """Whether a record with this value can be read again."""
    if isinstance(value, tuple):
        return len(repr(value)) <= _LONGEST and all(map(_can_be_kept, value))
    if isinstance(value, str):
        is_text = value.encode(errors="ignore").decode() == value  # no half of a pair
        is_text &= "${" not in value and "\0" not in value
        return is_text and len(repr(value)) <= _LONGEST
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < _INTEGERS


@dataclass(frozen=True)
class Program:
    """A training function in a file.

    Attributes:
        file: the file's name, without its folder.
        digest: SHA-256 of the function's name and of the texts of the file and of those beside it
            that it imports; 64 hex digits.
        roles: pairs of a role and the argument that has it, in the order of `ROLES`.
    """

    file: str
    function: str
    digest: str
    arguments: tuple[Argument, ...]
    roles: tuple[tuple[str, str], ...] = ()

    def argument(self, name: str) -> Argument | None:
        """The argument of a name."""
        return next((own for own in self.arguments if own.name == name), None)

    def role(self, role: str) -> str | None:
        """The argument that has a role."""
        return dict(self.roles).get(role)


def read_program(where: str, roles: Mapping[str, str] | None = None) -> tuple[Program, Path]:
    r"""Reads the signature of a training function; executes nothing.

    Args:
        where: `FILE.py`, or `FILE.py:FUNCTION`.
        roles: role -> argument, where the names do not say it.

    Returns:
        The program, and the file's absolute path.

    Raises:
        MissingInputError: for a file that is not there.
        DataError: for one that cannot be read.
        SettingError: for a function that is not in it, or cannot be called with settings.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "mine.py")
        ...     _ = file.write_text("def train(rate: float = 1, hidden=3):\n    yield 0.0\n")
        ...     program, _ = read_program(str(file))
        >>> [(own.name, own.kind, own.default) for own in program.arguments]
        [('rate', 'float', 1.0), ('hidden', 'int', 3)]
    """
    named = NAMED_FILE.fullmatch(where)
    if named is None:
        raise SettingError(f"own.file must be FILE.py or FILE.py:FUNCTION, but is {shown(where)}")
    path, function = Path(named["path"]).resolve(), named["function"] or FUNCTION
    text = read_source(path)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise DataError(f"{path.name} is no Python: line {error.lineno}: {error.msg}") from None
    found = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    if function not in found:
        names = [name for name, node in found.items() if isinstance(node, ast.FunctionDef)]
        there = (
            f"; it has {', '.join(names[:5])}: own.file={named['path']}:{names[0]}" if names else ""
        )
        raise SettingError(f"{path.name} has no function {function} at its top level{there}")
    arguments = _arguments(found[function], path.name)
    digest = _digest(path, text, function)
    return Program(path.name, function, digest, arguments, _roles(arguments, roles or {})), path


def read_source(path: Path) -> str:
    """The text of a Python file.

    Raises:
        MissingInputError: for a file that is not there.
        DataError: for one that cannot be read.
    """
    if not path.is_file():
        raise MissingInputError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_SOURCE:
        raise DataError(f"{path.name} is no source of a program: it is larger than 10 MB")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None


def _digest(path: Path, text: str, function: str) -> str:
    """Of all that is executed and lies beside the file."""
    texts = {path.name: text}
    waiting = [text]
    while waiting:
        for beside in _beside(path.parent, imports_of(waiting.pop())):
            name = beside.relative_to(path.parent).as_posix()
            if name not in texts:
                texts[name] = read_source(beside)
                waiting.append(texts[name])
    parts = [function, *(part for name in sorted(texts) for part in (name, texts[name]))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _beside(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files of modules and packages that lie in a folder."""
    for name in names:
        if (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        if (folder / name / "__init__.py").is_file():
            yield from (folder / name).rglob("*.py")


def imports_of(text: str) -> tuple[str, ...]:
    """The packages that a file imports, anywhere in it, sorted."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return tuple(sorted(names))


def difference(before: str, after: str) -> str:
    """The first lines in which two texts differ, for a sentence; empty where they do not.

    Example:
        >>> difference("a = 1", "a = 2")
        '- a = 1 + a = 2'
    """
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    shown = [f"{line[0]} {one_line(line[1:], most=80)}" for line in changed[:_MOST_LINES]]
    return " ".join([*shown, "..."] if len(changed) > _MOST_LINES else shown)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> tuple[Argument, ...]:
    if isinstance(node, ast.AsyncFunctionDef):
        raise SettingError(f"{node.name} in {file} must be an ordinary function, but is async")
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    pairs = [*zip(positional, [*defaults, *spec.defaults], strict=True)]
    pairs += zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    found = []
    for own, default in pairs:
        if own.arg == GUARD:
            continue
        why = "goes by its place only" if own in spec.posonlyargs else ""
        why = "is a setting of its own here" if own.arg in _RESERVED else why
        if why:
            raise SettingError(
                f"{node.name} in {file} has an argument {own.arg!r}, which {why}; "
                "give it another name"
            )
        found.append(_argument(own, default))
    return tuple(found)


def _argument(own: ast.arg, default: ast.expr | None) -> Argument:
    value = _constant(default) if default is not None else None
    kind, choices, may_be_none = _annotated(own.annotation)
    if not kind:
        kind = {"tuple": "list", "NoneType": "any"}.get(type(value).__name__, type(value).__name__)
        may_be_none = isinstance(default, ast.Constant) and default.value is None
    if kind == "float" and type(value) is int:
        value = float(value)
    return Argument(own.arg, kind, value, default is None, choices, may_be_none)


def _constant(node: ast.expr) -> Any:
    """A default as a plain value; None where it is computed."""
    try:
        value = ast.literal_eval(node)
        if isinstance(value, list | tuple):
            value = _plain_list("", value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, SettingError):
        return None
    return value if isinstance(value, _PLAIN) and _can_be_kept(value) else None


def _plain_list(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise SettingError(f"own.{name} must be a list of plain values, but has {shown(value)}")
    return tuple(values)


def _annotated(node: ast.expr | None) -> tuple[str, tuple[str, ...], bool]:
    """Kind, choices and whether None is allowed; an empty kind where the annotation says none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            node = ast.parse(node.value, mode="eval").body
        except SyntaxError:
            return "", (), False
    if isinstance(node, ast.Name):
        kind = "list" if node.id in _SEQUENCES else node.id
        return kind if kind in _LAWS else "", (), False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [node.left, node.right]
        others = [s for s in sides if not (isinstance(s, ast.Constant) and s.value is None)]
        return _or_none(others[0]) if len(others) == 1 else ("any", (), False)
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        if name == "Optional":
            return _or_none(node.slice)
        if name in _SEQUENCES:
            return "list", (), False
        if name == "Literal":
            with contextlib.suppress(ValueError):
                values = ast.literal_eval(node.slice)
                values = values if isinstance(values, tuple) else (values,)
                is_text = all(isinstance(value, str) for value in values)
                return ("str", values, False) if is_text else ("any", (), False)
    return "", (), False


def _or_none(node: ast.expr) -> tuple[str, tuple[str, ...], bool]:
    kind, choices, _ = _annotated(node)
    return kind or "any", choices, True


def _roles(arguments: Sequence[Argument], given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Role -> argument: as given, else by its name."""
    names = [own.name for own in arguments]
    for role, name in given.items():
        if role not in ROLES:
            raise SettingError(
                f"own.roles must name one of {', '.join(ROLES)}, but has {shown(role)}"
            )
        if name not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise SettingError(f"own.roles.{role} must be an argument of the function; {has}")
    found = []
    for role, usual in ROLES.items():
        name = given.get(role) or next((each for each in usual if each in names), "")
        if name:
            found.append((role, name))
    return tuple(found)

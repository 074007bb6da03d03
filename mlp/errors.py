"""The one exception tree: every fault that a user can meet, with the exit code it leads to.

Exit code 2 is for what the user typed wrong; all others are the codes of BSD's sysexits.h, so that
a script that calls the commands can tell faults apart.
"""

import contextlib
import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Self, TypeVar

PATIENCE_S = 5.0  # with a store that may be back in a moment
PAUSE_S = 0.5  # between two tries

_T = TypeVar("_T")


class MlpError(Exception):
    """A fault with one clear sentence for the user; never shown with a traceback.

    Whatever was typed or read stands in it safely: a line break becomes a space, and a control
    character (a terminal would obey it) a question mark.

    Args:
        sentence: what is wrong, the value, and the way out.

    Attributes:
        exit_code: what the command exits with.
    """

    exit_code = 70  # EX_SOFTWARE

    def __init__(self, sentence: str) -> None:
        super().__init__(_printable(sentence))


class SettingError(MlpError):
    """A setting, override or search space that breaks a law of the schema."""

    exit_code = 2


class DataError(MlpError):
    """A data file that is corrupt, truncated or not what its name says."""

    exit_code = 65  # EX_DATAERR


class MissingInputError(MlpError):
    """A data file, run or study that was asked for and is not there."""

    exit_code = 66  # EX_NOINPUT


class UnavailableError(MlpError):
    """A server or mirror that does not answer."""

    exit_code = 69  # EX_UNAVAILABLE


class SystemLimitError(MlpError):
    """Memory or another resource that does not suffice, or an unsupported system."""

    exit_code = 71  # EX_OSERR


class StoreError(MlpError):
    """A study store, tracking store or folder that cannot be read or written."""

    exit_code = 74  # EX_IOERR


class BusyError(MlpError):
    """A store or study that somebody else holds just now."""

    exit_code = 75  # EX_TEMPFAIL


class RecordError(MlpError):
    """A tracked record that breaks the schema and is therefore not used."""

    exit_code = 65  # EX_DATAERR


class AllDivergedError(MlpError):
    """A study in which no run stayed finite, so that there is no best one."""

    exit_code = 1


@contextlib.contextmanager
def translated(
    table: Mapping[type[Exception], Callable[[Any], MlpError | None]],
) -> Iterator[None]:
    """Turns what a library raises in the block into this program's errors.

    Args:
        table: kind of exception -> what makes one sentence of it; the first kind that fits counts.
            None instead of a sentence: the exception is a bug and stays what it is.

    Example:
        >>> with translated({OSError: lambda error: StoreError(f"cannot write: {error}")}):
        ...     raise OSError("disk full")
        Traceback (most recent call last):
        mlp.errors.StoreError: cannot write: disk full
    """
    try:
        yield
    except tuple(table) as error:
        sentence = next(table[kind] for kind in table if isinstance(error, kind))(error)
        if sentence is None:
            raise
        raise sentence from None


def _is_passing(error: Exception) -> bool:
    return isinstance(error, BusyError | UnavailableError)


def patiently(
    job: Callable[[], _T],
    *,
    may_pass: Callable[[Exception], bool] = _is_passing,
    patience_s: float | None = None,
) -> _T:
    """What a job with a store returns; the job is begun again while its fault may pass.

    Args:
        job: safe to be done twice, also where the store did all of it and had no time to say so.
        may_pass: whether to try again may help; else the fault is raised at once.
        patience_s: for how long to try; None: `PATIENCE_S`.
    """
    end = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            return job()
        except Exception as error:
            if not may_pass(error) or time.monotonic() > end:
                raise
        time.sleep(PAUSE_S)


def did_you_mean(typed: object, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, else `otherwise`.

    Example:
        >>> did_you_mean("swep", ["sweep", "train"])
        "; did you mean 'sweep'?"
    """
    near = difflib.get_close_matches(typed, known, n=1) if isinstance(typed, str) else []
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; {otherwise}" if otherwise else ""


def shown(value: object, *, most: int = 80) -> str:
    """A value as Python writes it, on one line and short enough for a sentence.

    Example:
        >>> shown([3] * 50, most=12)
        '[3, 3, 3,...'
    """
    try:
        return one_line(repr(value), most=most)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def counted(n: int, one: str, several: str = "") -> str:
    """How many there are of something.

    Example:
        >>> counted(1, "run"), counted(2, "run"), counted(0, "study", "studies")
        ('1 run', '2 runs', '0 studies')
    """
    return f"{n} {one if n == 1 else several or one + 's'}"


def one_line(error: object, *, most: int = 300) -> str:
    r"""What an error says, as one line that is safe to print.

    Control characters (a terminal would obey them) become question marks; a long text is cut.

    Example:
        >>> one_line(ValueError("two\nlines"))
        'two lines'
    """
    text = _printable(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= most else text[: most - 3] + "..."


def _printable(text: str) -> str:
    spaced = (" " if character.isspace() else character for character in text)
    return "".join(character if character.isprintable() else "?" for character in spaced)


class WithSentence(StrEnum):
    """A word that says itself in a sentence; a string like any other member of a `StrEnum`.

    Example:
        >>> class Weather(WithSentence):
        ...     WET = "wet", "It rains."
        >>> Weather("wet").sentence, f"{Weather.WET}"
        ('It rains.', 'wet')
    """

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> Self:
        """A member with its sentence; a look-up by value passes none."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

"""Words that carry a sentence for a person: what the enums of results have in common."""

from enum import StrEnum
from typing import Self


class WithSentence(StrEnum):
    """A word that says itself in a sentence; a string like any other member of a `StrEnum`.

    Attributes:
        sentence: for a person.

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

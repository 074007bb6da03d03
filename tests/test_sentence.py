"""Results that are words with a sentence: strings to all that stores, sends or shows them."""

import json
import pickle

import pytest

from mlp.curve import Verdict
from mlp.engine.result import Ending
from mlp.stability.ratio import Mechanism


@pytest.mark.parametrize(
    "member",
    [member for words in (Verdict, Ending, Mechanism) for member in words],
    ids=repr,
)
def test_a_result_travels_as_its_word_and_keeps_its_sentence(member):
    assert str(member) == f"{member}" == member.value
    assert json.loads(json.dumps({member: member})) == {member.value: member.value}
    assert pickle.loads(pickle.dumps(member)) is member
    assert type(member)(member.value) is member
    assert member.sentence[0].isupper()
    assert member.sentence.endswith(".")

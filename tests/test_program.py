"""The signature of a training function is the schema of its settings, read without executing it."""

import textwrap
from pathlib import Path

import pytest

from mlp.errors import DataError, MissingInputError, SettingError
from mlp.program import difference, read_program
from mlp.settings import read_run, read_sweep, settings_of, with_settings
from mlp.study.space import read_space, space_around


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "mine.py") -> str:
    Path(name).write_text(textwrap.dedent(text))
    return name


def program(text: str, **options):
    return read_program(write(text), **options)[0]


def own(text: str, **values):
    """A run of the function of a text."""
    return read_run({"own": {"file": write(text), **values}})


def refused(text: str, **values) -> str:
    with pytest.raises(SettingError) as caught:
        own(text, **values)
    return str(caught.value)


SIGNATURE = """
    import os
    from typing import Literal, Optional
    import typing as t
    os.mkdir("was executed")
    WIDTH = 3

    def train(rate, hidden: int = 3, decay=0.5, on=True, name="a b", sizes=(3, 4), width=WIDTH,
              scale: float = 1, batch: Optional[int] = None, momentum: "float | None" = None,
              kind: Literal["a", "b"] = "a", steps: t.Optional[float] = 0.5, any_=None, layers=[],
              *, seed: int, mixed: int | str = 3, limit=1e999, far: list[int] = (1,), low=-0.5):
        yield 0.0
"""
KINDS = {  # name -> kind, default, whether it must be given, whether None is a value
    "rate": ("any", None, True, False),
    "hidden": ("int", 3, False, False),
    "decay": ("float", 0.5, False, False),
    "on": ("bool", True, False, False),
    "name": ("str", "a b", False, False),
    "sizes": ("list", (3, 4), False, False),
    "width": ("any", None, False, False),
    "scale": ("float", 1.0, False, False),
    "batch": ("int", None, False, True),
    "momentum": ("float", None, False, True),
    "kind": ("str", "a", False, False),
    "steps": ("float", 0.5, False, True),
    "any_": ("any", None, False, True),
    "layers": ("list", (), False, False),
    "seed": ("int", None, True, False),
    "mixed": ("any", 3, False, False),
    "limit": ("any", None, False, False),
    "far": ("list", (1,), False, False),
    "low": ("float", -0.5, False, False),
}


def test_signature_is_the_schema_and_nothing_is_executed():
    found = program(SIGNATURE)
    assert {
        each.name: (each.kind, each.default, each.is_required, each.may_be_none)
        for each in found.arguments
    } == KINDS
    assert [type(found.argument("scale").default), found.argument("kind").choices] == [
        float,
        ("a", "b"),
    ]
    assert dict(found.roles) == {"seed": "seed", "steps": "steps"}
    assert not Path("was executed").exists()


def test_value_of_its_kind_is_kept():
    kept = {
        "hidden": (5, 5),
        "decay": (2, 2.0),
        "momentum": (None, None),
        "kind": ("b", "b"),
        "sizes": ([5, 6], (5, 6)),
        "on": (False, False),
        "any_": ("text", "text"),
        "width": (None, None),
    }
    given = {name: value for name, (value, _) in kept.items()}
    found = own(SIGNATURE, rate=1, seed=0, **given).own.arguments
    for name, (_, value) in kept.items():
        assert (found[name], type(found[name])) == (value, type(value))


def test_value_that_does_not_fit_is_refused():
    for name, value, said in [
        ("hidden", 2.5, "own.hidden must be an integer, but is 2.5; written hidden: float"),
        ("hidden", True, "own.hidden must be an integer, but is True"),
        ("hidden", None, "own.hidden must be an integer, but is None"),
        ("decay", "x", "own.decay must be a number, but is 'x'"),
        ("on", 1, "own.on must be true or false, but is 1"),
        ("name", 3, "own.name must be a text, but is 3"),
        ("kind", "c", "own.kind must be one of a, b, but is 'c'"),
        ("sizes", 3, "own.sizes must be a list, but is 3"),
        ("sizes", [[3]], "own.sizes must be a list of plain values, but has [3]"),
        ("any_", {"a": 1}, "own.any_ must be a plain value"),
        ("decay", float("inf"), "own.decay must be a finite number"),
        ("hidden", 2**70, "own.hidden must be a finite number of at most 63 bits"),
        ("name", "${oc.env:HOME}", "texts without ${, to be recorded"),
        ("name", "\ud800", "texts without ${, to be recorded"),
        ("name", "x" * 2000, "at most 1000 characters"),
        ("hiden", 3, "unknown setting 'own.hiden'; did you mean 'own.hidden'? (mine.py:train)"),
    ]:
        assert said in refused(SIGNATURE, rate=1, seed=0, **{name: value})


def test_argument_without_a_default_must_be_given():
    said = "own.seed must be given: train in mine.py has no default for it"
    assert refused(SIGNATURE, rate=1) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("async def train(): ...", "must be an ordinary function, but is async"),
        ("def train(rate, /): ...", "'rate', which goes by its place only"),
        ("def train(file): ...", "'file', which is a setting of its own here"),
        ("def train(*, timeout_s=3): ...", "'timeout_s', which is a setting of its own here"),
        ("def fit(): ...", "has no function train at its top level; it has fit: own.file=mine.py"),
        ("class A:\n    def train(self): ...", "has no function train at its top level"),
        ("", "has no function train at its top level"),
    ],
)
def test_function_that_settings_cannot_call_is_refused(text, said):
    assert said in refused(text)


@pytest.mark.parametrize(
    ("where", "kind", "said"),
    [
        ("nowhere.py", MissingInputError, "there is no file"),
        ("mine.txt", SettingError, "own.file must be FILE.py or FILE.py:FUNCTION"),
        ("mine.py:", SettingError, "own.file must be FILE.py or FILE.py:FUNCTION"),
        ("broken.py", DataError, "broken.py is no Python: line 2"),
        ("bytes.py", DataError, "bytes.py cannot be read"),
        ("folder.py", MissingInputError, "there is no file"),
    ],
)
def test_file_that_is_none_is_refused(where, kind, said):
    write("x = 1\ndef train(:\n", "broken.py")
    Path("bytes.py").write_bytes(b"\xff\xfe")
    Path("folder.py").mkdir()
    with pytest.raises(kind, match=said):
        read_program(where)


def test_other_function_of_a_file_is_another_program():
    write("def train(a=1): ...\ndef build(b=2): ...\ndef train(c=3): ...\n")
    train, build = (read_program(f"mine.py{name}")[0] for name in ("", ":build"))
    assert [each.name for each in train.arguments] == ["c"]  # the last one counts, as in Python
    assert [each.name for each in build.arguments] == ["b"]
    assert train.digest != build.digest


@pytest.mark.parametrize(
    "file", ["mine.py", "beside.py", "deeper.py", "package/__init__.py", "package/part/inner.py"]
)
def test_digest_is_of_all_that_is_executed_and_lies_beside(file):
    Path("package/part").mkdir(parents=True)
    for name, text in {
        "mine.py": "import numpy\ndef train():\n    from beside import x\n",
        "beside.py": "import deeper, mine\nfrom package.part import inner\n",
        "deeper.py": "",
        "package/__init__.py": "",
        "package/part/inner.py": "",
        "other.py": "",
    }.items():
        Path(name).write_text(text)
    before = read_program("mine.py")[0].digest
    Path("other.py").write_text("x = 1")
    assert read_program("mine.py")[0].digest == before
    Path(file).write_text(Path(file).read_text() + "# changed\n")
    assert read_program("mine.py")[0].digest != before


def test_difference_is_a_few_lines_that_are_safe_to_print():
    assert difference("a\nb\n", "a\nb\n") == ""
    said = difference("\n".join("abcdef"), "x\x1b[2J\n" + "y" * 500)
    assert said.isprintable()
    assert said.endswith(" ...")
    assert len(said) < 500


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"rate": "lr"}, "own.roles must name one of learning_rate, batch_size, seed, steps"),
        ({"seed": "lr2"}, "own.roles.seed must be an argument of the function; it has lr, eta"),
    ],
)
def test_role_that_is_none_is_refused(roles, said):
    assert said in refused("def train(lr=1.0, eta=0.5): ...", roles=roles)


def test_role_goes_by_the_usual_name_unless_it_is_given():
    text = "def train(lr=1.0, eta=0.5, random_state=0): ..."
    assert program(text).roles == (("learning_rate", "lr"), ("seed", "random_state"))
    given = program(text, roles={"learning_rate": "eta"})
    assert given.role("learning_rate") == "eta"


def test_without_an_argument_the_seed_of_the_global_streams_is_a_setting():
    assert settings_of(own("def train(a=1): ...")) == {"own.a": 1, "training.seed": 0}
    assert settings_of(own("def train(a=1, seed=3): ...")) == {"own.a": 1, "own.seed": 3}


def test_arguments_need_a_file():
    with pytest.raises(SettingError, match=r"own\.rate needs own\.file=FILE\.py"):
        read_run({"own": {"rate": 1}})


def test_setting_one_argument_keeps_the_others():
    run = own("def train(a=1, b=2.0, c=(1, 2)): ...", a=5)
    changed = with_settings(run, {"own.b": 3, "training.seed": 7})
    assert settings_of(changed) == {
        "own.a": 5,
        "own.b": 3.0,
        "own.c": [1, 2],
        "training.seed": 7,
    }
    assert settings_of(run)["own.b"] == 2.0


def test_space_where_nobody_wrote_one_varies_what_is_known_and_no_seed():
    text = """
        from typing import Literal
        def train(lr=0.5, share=0.5, hidden=3, on=False, kind: Literal["a", "b"] = "b", name="x",
                  zero=0, steps=10, seed=1): ...
    """
    run = own(text)
    found = {entry.path: entry for entry in read_space(space_around(run.own), run)}
    assert sorted(found) == ["own.hidden", "own.kind", "own.lr", "own.on", "own.share"]
    domains = {path: entry.domains[""] for path, entry in found.items()}
    assert (domains["own.hidden"].low, domains["own.hidden"].high) == (1, 12)
    assert domains["own.hidden"].integer
    assert domains["own.lr"].log
    assert (domains["own.lr"].low, domains["own.lr"].high) == (0.0167, 15.0)
    assert domains["own.share"].high < 1  # which is no rate, and may be a momentum
    assert domains["own.on"].values == (False, True)
    assert domains["own.kind"].values == ("a", "b")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.depth": [1, 2]}, "study.space varies model.depth, which does nothing in mine.py"),
        ({"own.rat": [1.0]}, "did you mean 'study.space.own.rate'?"),
        ({"own.hidden": [2.5]}, "own.hidden must be an integer"),
        ({"own.hidden": {"low": 1.5, "high": 3}}, "study.space.own.hidden"),
        ({"own.file": ["other.py"]}, "own.file"),
    ],
)
def test_space_that_does_not_fit_the_signature_is_refused(space, said):
    run = own("def train(rate=0.5, hidden=3): ...")
    with pytest.raises(SettingError) as caught:
        read_space(space, run)
    assert said in str(caught.value)


def test_objective_is_any_name_of_an_own_function_and_one_of_three_else():
    write("def train(rate=0.5): ...")
    study = {"space": {"own.rate": [1.0, 2.0]}}
    values = {"own": {"file": "mine.py"}, "study": study}
    assert read_sweep(values).objective == "training_loss"
    named = {**values, "study": {**study, "objective": "val_error"}}
    assert read_sweep(named).objective == "val_error"
    with pytest.raises(SettingError, match="did you mean 'oscillation'"):
        read_sweep({"study": {"objective": "oscilation"}})

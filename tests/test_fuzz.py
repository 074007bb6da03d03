"""Whatever is typed, written in a study or read back is taken as meant, or refused in a sentence.

A few hundred examples in each run; for longer, with other ones each time:

    PYTHONPATH=tests python tests/test_fuzz.py 600
"""

import contextlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlp.config import RunConfig, SweepConfig
from mlp.errors import MlpError, RecordError, SettingError
from mlp.settings import read_run, read_sweep, setting_paths, settings_of
from mlp.study import search
from mlp.study.identity import check_study, differences, identity
from mlp.study.storage import storage_in_memory
from mlp.terminal.compose import compose
from mlp.tracking import record
from mlp.tracking.record import read_recipe, write_recipe
from support.sample_records import make_record

N_AT_ONCE = 100  # examples of a property before the next has its turn, in the long run

if __name__ == "__main__":  # before the properties are made, which keep what is the default then
    settings.register_profile(
        "long",
        max_examples=N_AT_ONCE,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("long")

# Text that means something to Hydra, YAML, JSON, paths, filters or a terminal.
PIECES = st.sampled_from(
    [
        *"$[]{},=:'\"\\~+@* \n",
        *("${", "&a", "!!", "null", "true", ".inf", ".nan", "-0", "1e400", "0x1f", "1_0", "../"),
        *("\x1b[31m", "\u202e", "_target_", "oc.env:HOME", "model", "depth"),
    ]
)
TEXTS = st.text(max_size=12) | st.lists(PIECES, max_size=6).map("".join)
NUMBERS = (
    st.integers(-3, 70)
    | st.integers()
    | st.floats()
    | st.sampled_from([0.1, 0.5, 1.0, 1e-300, 1e300, -0.0, 2**31, 2**63, 10**400])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(sorted(setting_paths("sweep")))


def check_sentence(error: MlpError) -> None:
    assert str(error).isprintable()
    assert 10 < len(str(error)) < 2000


# -- what is typed


@given(
    st.lists(
        st.builds(
            "{}{}={}".format,
            st.sampled_from(["", "", "", "+", "~", "++"]),
            PATHS | st.sampled_from(["data", "gradient", "sweeps", "hydra.run.dir"]) | TEXTS,
            TEXTS | NUMBERS.map(repr) | VALUES.map(repr),
        )
        | TEXTS,
        max_size=3,
    ),
    st.sampled_from(["train", "sweep"]),
)
def typed(overrides: list[str], name: str) -> None:
    with contextlib.suppress(SettingError):
        values = compose(name, overrides)
        if name == "train":
            run = read_run(values)
            assert read_run(json.loads(json.dumps(values))) == run
        else:
            check_study(read_sweep(values))


# -- studies

FIXED = {
    "model.activation": ["sigmoid", "tanh", "relu"],
    "initialization.scheme": ["he_normal", "zeros", "uniform"],
    "gradient.normalization": ["sum", "mean", "unit", "clip"],
    "gradient.derivative": ["exact", "question"],
    "training.dtype": ["float32", "float64"],
    "training.batch_size": [None, 16],
}
SOFT = ["optimizer.learning_rate", "optimizer.momentum", "initialization.scale"]
WHOLE = ["model.depth", "model.widths", "training.seed", "training.steps"]
BOUNDS = st.integers(0, 9) | st.floats(0, 3) | NUMBERS


@st.composite
def domains(draw, path: str) -> Any:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(VALUES)
    if path in FIXED or kind < 3:
        return draw(st.lists(st.sampled_from(FIXED.get(path, [1, 2, 3, 0.5])), max_size=3))
    whole = path in WHOLE
    low = draw(st.integers(1, 4) if whole else st.floats(0.001, 0.5)) if kind < 8 else draw(BOUNDS)
    high = draw(st.integers(4, 9) if whole else st.floats(0.5, 0.9)) if kind < 8 else draw(BOUNDS)
    found = {"low": low, "high": high}
    for name, values in {
        "log": st.booleans(),
        "step": BOUNDS,
        "each_layer": st.booleans(),
        "by": st.sampled_from([*FIXED, "model.depth", "nonsense"]),
    }.items():
        if draw(st.integers(0, 5)) == 0:
            found[name] = draw(values)
    if "by" in found:
        keys = FIXED.get(found["by"], [1, 2])
        found = {"by": found["by"], **{str(k): {"low": low, "high": high} for k in keys}}
    return found


@st.composite
def studies(draw) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from([*FIXED, *SOFT, *WHOLE]), unique=True, max_size=4))
    study: dict[str, Any] = {
        "space": {path: draw(domains(path)) for path in paths},
        "sampler": draw(st.sampled_from(["tpe", "random", "qmc", "grid"])),
        "seed": draw(st.integers(0, 2**32)),
        "n_trials": draw(st.integers(0, 5)),
        "generation": draw(st.integers(0, 4)),
        "pruner": draw(st.sampled_from(["none", "median", "percentile"])),
        "objective": draw(st.sampled_from(["validation_accuracy", "training_loss", "oscillation"])),
    }
    if draw(st.integers(0, 3)) == 0:
        points = st.dictionaries(st.sampled_from([*paths, "model.depth"]), SCALARS, max_size=2)
        study["enqueue"] = draw(st.lists(points, max_size=2))
    return study


_UNREADABLE = {  # a branch for a choice that a terminal would obey
    "space": {
        "initialization.scheme": "\x1f",
        "optimizer.learning_rate": {"by": "initialization.scheme", "zeros": [0.5]},
    }
}


@given(studies(), st.integers(0, 3))
@example(_UNREADABLE, 1)
def study(values: dict[str, Any], depth: int) -> None:
    """A study is refused, or it can be asked, twice the same, and each trial is a run."""
    try:
        config = read_sweep(
            {"data": {"name": "digits"}, "model": {"depth": depth}, "study": values}
        )
        check_study(config)
        first, again = asked(config), asked(config)
    except SettingError as error:
        check_sentence(error)
        return
    assert first == again
    for run in first:
        assert read_run(json.loads(json.dumps(as_values(run)))) == run


def asked(config: SweepConfig) -> list[RunConfig]:
    what = identity(config, "digits", "0" * 64)
    assert differences(json.loads(json.dumps(what)), what) == []
    opened = search.open_search(storage_in_memory(), config, what)
    return [trial.config for trial in search.ask(opened)]


def as_values(run: RunConfig) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for path, value in settings_of(run).items():
        group, _, name = path.partition(".")
        values.setdefault(group, {})[name] = value
    return values


# -- what is read back

GOOD = record.config_json(make_record())
LEAVES = [
    ("settings", group, name)
    for group, part in json.loads(GOOD)["settings"].items()
    for name in part
] + [("version",), ("data_digest",), ("ended", "ending"), ("ended", "last_step"), ("settings",)]


@given(st.lists(st.tuples(st.sampled_from(LEAVES), VALUES), max_size=3))
def config_json(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    values = json.loads(GOOD)
    for (*groups, last), value in changes:
        place = values
        for group in groups:
            place = place[group] if isinstance(place, dict) and group in place else {}
        if isinstance(place, dict):
            place[last] = value
    read_config_text(json.dumps(values))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), TEXTS), max_size=4))
@example([(0, "\ud800")])
def config_text(changes: list[tuple[int, str]]) -> None:
    text = GOOD
    for place, piece in changes:
        text = text[:place] + piece + text[place + len(piece) :]
    read_config_text(text)


def read_config_text(text: str) -> None:
    try:
        recipe = read_recipe(text)
    except RecordError as error:
        check_sentence(error)
        return
    assert read_recipe(write_recipe(recipe)) == recipe
    assert sum(e.largest_bytes for e in record.expected_weights(recipe).values()) > 0


RUN = read_recipe(record.config_json(make_record({"training.sharpness_points": 3})))
EXPECTED = {**record.expected_curve(RUN), **record.expected_weights(RUN)}
ARRAYS = {
    name: np.zeros(expected.shape, expected.dtype) for name, expected in list(EXPECTED.items())[:4]
}
FEW = {name: EXPECTED[name] for name in ARRAYS}
PACKED = record.pack_arrays(ARRAYS)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(PACKED) - 1),
            st.binary(max_size=6)
            | st.sampled_from([b"PK\x01\x02", b"\xff" * 4, b"\x93NUMPY", b"../"]),
        ),
        max_size=5,
    ),
    st.integers(0, len(PACKED)),
    st.booleans(),
)
def npz_bytes(changes: list[tuple[int, bytes]], end: int, whole: bool) -> None:
    data = bytearray(PACKED)
    for place, piece in changes:
        data[place : place + len(piece)] = piece
    read_arrays(bytes(data if whole else data[:end]))


def claiming(dtype: str, shape: object, order: str, tail: bytes) -> bytes:
    """An npy file whose header says anything."""
    header = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}\n"
    data = header.encode(errors="surrogatepass")
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(4, "little")[:2] + data + tail


@given(
    st.dictionaries(
        st.sampled_from([*FEW, *(f"../{name}" for name in FEW), "x"]).map("{}.npy".format),
        st.binary(max_size=40)
        | st.builds(
            claiming,
            st.sampled_from(["<f8", "<i8", "|O", "|V8", "<U9", ">f8", "<f4"]) | TEXTS,
            st.lists(st.integers(-2, 30) | st.integers(), max_size=3).map(tuple) | TEXTS,
            st.sampled_from(["True", "False"]),
            st.binary(max_size=300),
        ),
        max_size=5,
    ),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def npz_members(members: dict[str, bytes], method: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    read_arrays(file.getvalue())


def read_arrays(data: bytes) -> None:
    try:
        arrays = record.unpack_arrays(data, FEW, source="w.npz")
    except RecordError as error:
        check_sentence(error)
        return
    for name, array in arrays.items():
        assert FEW[name].allows(array.shape)
        assert array.dtype.str == FEW[name].dtype


PROPERTIES: list[Callable[..., None]] = [
    typed, study, config_json, config_text, npz_bytes, npz_members
]  # fmt: skip


def with_examples(prop: Callable[..., None], n_examples: int) -> Callable[[], None]:
    return settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(prop)


def test_typed():
    with_examples(typed, 40)()


def test_study():
    with_examples(study, 60)()


def test_config_json():
    with_examples(config_json, 100)()


def test_config_text():
    with_examples(config_text, 100)()


def test_npz_bytes():
    with_examples(npz_bytes, 100)()


def test_npz_members():
    with_examples(npz_members, 100)()


def run_for(seconds: float) -> None:
    """Goes through the properties, with other examples each time, until the time is over."""
    end = time.monotonic() + seconds
    n_done = dict.fromkeys((prop.__name__ for prop in PROPERTIES), 0)
    while time.monotonic() < end:
        for prop in PROPERTIES:
            prop()  # each time with another seed
            n_done[prop.__name__] += N_AT_ONCE
            print(f"{sum(n_done.values())} examples: {n_done}", flush=True)


if __name__ == "__main__":
    run_for(float(sys.argv[1]))

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlp.data.mnist import parse_idx, read_file, read_folder
from mlp.errors import DataError, MissingInputError, StoreError
from support.mirror import files_of, gzipped, idx_bytes, made_up_contents, put

CONTENTS = made_up_contents()
FILES = files_of(CONTENTS)
LABELS = FILES[1]
RAW = CONTENTS[LABELS.name]


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=5)))
def test_parse_returns_what_was_written(array: np.ndarray) -> None:
    np.testing.assert_array_equal(parse_idx(idx_bytes(array), "x"), array)


@given(st.binary(max_size=40))
def test_parse_takes_any_bytes_or_says_why_not(raw: bytes) -> None:
    with contextlib.suppress(DataError):
        assert idx_bytes(parse_idx(raw, "x")) == raw


@pytest.mark.parametrize(
    ("raw", "law"),
    [
        (b"", "must begin with bytes 0, 0, 8, but begins with []"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "but begins with [0, 0, 13]"),
        (b"\x00\x00\x08\x00", "must name its 0 dimensions"),
        (b"\x00\x00\x08\x03\x00\x00", "must name its 3 dimensions, but has 6 bytes"),
        (RAW[:-1], "of shape (60,) must have 68 bytes, but has 67"),
        (RAW + b"\x00", "of shape (60,) must have 68 bytes, but has 69"),
        (b"\x00\x00\x08\x02" + b"\xff" * 8, "must have 18446744065119617037 bytes, but has 12"),
    ],
)
def test_parse_states_the_broken_law(raw: bytes, law: str) -> None:
    with pytest.raises(DataError) as error:
        parse_idx(raw, "some-file")
    assert str(error.value).startswith("some-file ")
    assert law in str(error.value)


@pytest.mark.parametrize("packed", [True, False])
def test_a_whole_folder_is_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    assert read_folder(put(tmp_path, CONTENTS, packed=packed), FILES) == CONTENTS


def test_missing_files_are_named_with_their_folder(tmp_path: Path) -> None:
    put(tmp_path, CONTENTS)
    (tmp_path / f"{LABELS.name}.gz").unlink()
    with pytest.raises(MissingInputError) as error:
        read_folder(tmp_path, FILES)
    assert str(tmp_path) in str(error.value)
    assert LABELS.name in str(error.value)
    assert FILES[0].name not in str(error.value)


def test_a_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "none", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MissingInputError, match="must be a folder"):
            read_folder(folder, FILES)
    for folder in (Path("~nobody-of-this-name/x"), tmp_path / ("x" * 300)):
        with pytest.raises((MissingInputError, StoreError)):
            read_folder(folder, FILES)


OTHER, DAMAGED = "has other bytes than were published", "is a damaged gzip file"


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", OTHER),
        (b"<html>log in</html>", OTHER),
        (b"PK\x03\x04 a foreign file", OTHER),
        (RAW[:-1], OTHER),
        (RAW[:-1] + b"\x05", OTHER),
        (RAW + b"\x00", OTHER),
        (gzipped(RAW)[:-15], OTHER),
        (gzipped(RAW)[:-8] + bytes(8), DAMAGED),
        (b"\x1f\x8b junk after the magic number", DAMAGED),
        (gzipped(b""), OTHER),
        (gzipped(bytes(1_000_000)), OTHER),
    ],
)
def test_a_damaged_file_stays_and_both_digests_are_said(
    tmp_path: Path, payload: bytes, fault: str
) -> None:
    put(tmp_path, CONTENTS)
    path = tmp_path / LABELS.packed
    path.write_bytes(payload)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, FILES)
    said = str(error.value)
    assert error.value.exit_code == 65
    assert said.startswith(f"{path} {fault}: the sha256 of {LABELS.name} must be {LABELS.sha256}")
    assert len(said.partition("but is ")[2]) == 64
    assert sorted(tmp_path.iterdir()) == before
    assert path.read_bytes() == payload


def test_what_is_no_file_is_damage_too(tmp_path: Path) -> None:
    put(tmp_path, CONTENTS)
    path = tmp_path / f"{LABELS.name}.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="is not a file"):
        read_folder(tmp_path, FILES)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_file_that_cannot_be_read_is_a_fault_of_the_store(tmp_path: Path) -> None:
    put(tmp_path, CONTENTS)
    (tmp_path / LABELS.name).symlink_to("/proc/self/mem")
    with pytest.raises(StoreError, match="cannot be read: Input/output error"):
        read_folder(tmp_path, FILES)


@given(st.data())
def test_no_changed_byte_passes(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    payload = bytearray(data.draw(st.sampled_from([RAW, gzipped(RAW)])))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(payload)
    with contextlib.suppress(DataError):
        assert read_file(path, LABELS) == RAW  # some header bytes of gzip mean nothing

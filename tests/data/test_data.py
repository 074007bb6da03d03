import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.config import Data
from mlp.data.dataset import (
    AUTO_SILENCE_S,
    ROOT_VARIABLE,
    Dataset,
    Part,
    features,
    load_data,
)
from mlp.errors import DataError, MissingInputError, StoreError, UnavailableError
from support.mirror import (
    black_hole,
    dead_url,
    files_of,
    idx_bytes,
    made_up_contents,
    mirror,
    put,
    quick,
)

MNIST_ROOT = os.environ.get(ROOT_VARIABLE)
needs_mnist = pytest.mark.skipif(
    not MNIST_ROOT or not Path(MNIST_ROOT).is_dir(),
    reason=f"{ROOT_VARIABLE} names no folder with the MNIST files",
)

CONTENTS = made_up_contents()
FILES = files_of(CONTENTS)

# Records of old runs name the data by these: whoever changes them breaks their reruns.
MNIST_DIGEST = "1cbdb4a6c41baa0b9b6254c798cec6808912f0fe8725194116f87fe770488596"
DIGITS_DIGEST = "d2ec92d94624301401757cd1c3c7dd3214285fa3d3b1006019134ec05c11d0fb"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)


def ignore(_line: str) -> None: ...


def rows(part: Part) -> list[bytes]:
    return [pixels.tobytes() + bytes([label]) for pixels, label in zip(*arrays(part), strict=True)]


def arrays(part: Part) -> tuple[np.ndarray, np.ndarray]:
    return part.pixels, part.labels


def counts(part: Part) -> list[int]:
    return np.bincount(part.labels, minlength=2).tolist()


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return load_data(
        Data(name="mnist", root=MNIST_ROOT, validation_fraction=0.0), notice=pytest.fail
    )


class TestFeatures:
    @pytest.mark.parametrize("scale", [16, 255])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_every_quotient_is_correctly_rounded(self, scale: int, dtype: str) -> None:
        pixels = np.arange(scale + 1, dtype=np.uint8)
        result = features(pixels, scale, dtype)
        assert result.dtype == dtype
        exact = np.arange(scale + 1, dtype=np.longdouble) / scale
        np.testing.assert_array_equal(result, exact.astype(dtype))


class TestMnist:
    @needs_mnist
    def test_the_published_numbers(self, whole: Dataset) -> None:
        assert (whole.name, whole.scale, whole.shape) == ("mnist", 255, (28, 28))
        assert whole.train.pixels.shape == (12_396, 784)
        assert counts(whole.train) == [6_131, 6_265]
        assert len(whole.validation) == 0
        assert whole.test.n_examples == 2_038
        assert counts(whole.test) == [1_010, 1_028]
        live = (whole.train.pixels != 0).any(axis=0)
        assert np.count_nonzero(live) == 640
        assert round(100 * np.mean(whole.train.pixels != 0), 1) == 18.8
        assert whole.digest == MNIST_DIGEST

    @needs_mnist
    def test_rows_are_the_files_rows_in_file_order(self, whole: Dataset) -> None:
        root = Path(str(MNIST_ROOT))

        def raw(name: str) -> bytes:
            path = root / name
            return path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()

        images = np.frombuffer(raw("train-images-idx3-ubyte")[16:], np.uint8).reshape(-1, 784)
        labels = np.frombuffer(raw("train-labels-idx1-ubyte")[8:], np.uint8)
        chosen = np.isin(labels, (3, 7))
        np.testing.assert_array_equal(whole.train.pixels, images[chosen])
        np.testing.assert_array_equal(whole.train.labels, labels[chosen] == 7)

    @needs_mnist
    def test_a_fifth_is_held_out_and_the_digest_stays(self, whole: Dataset) -> None:
        parted = load_data(Data(name="mnist", root=MNIST_ROOT), notice=pytest.fail)
        assert counts(parted.validation) == [1_226, 1_253]
        assert counts(parted.train) == [4_905, 5_012]
        assert parted.digest == whole.digest
        assert sorted(rows(parted.train) + rows(parted.validation)) == sorted(rows(whole.train))

    @needs_mnist
    def test_loading_takes_less_than_a_second(self, whole: Dataset) -> None:
        start = time.process_time()  # the machine may be busy with other things
        load_data(Data(name="mnist", root=MNIST_ROOT), notice=pytest.fail)
        assert time.process_time() - start < 1

    def test_the_environment_names_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ROOT_VARIABLE, str(put(tmp_path, CONTENTS)))
        data = load_data(Data(name="mnist"), notice=pytest.fail, source=quick(CONTENTS))
        assert counts(data.train) == [5, 5]
        assert counts(data.validation) == [1, 1]
        assert counts(data.test) == [2, 2]

    @pytest.mark.parametrize("name", ["mnist", "auto"])
    def test_a_folder_that_was_named_is_only_read(self, tmp_path: Path, name: str) -> None:
        with mirror(CONTENTS) as server, pytest.raises(MissingInputError) as error:
            load_data(
                Data(name=name, root=str(tmp_path)),
                notice=pytest.fail,
                source=quick(CONTENTS, server.url),
            )
        assert error.value.exit_code == 66
        assert str(tmp_path) in str(error.value)
        assert all(name in str(error.value) for name in CONTENTS)
        assert server.requests == []
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["mnist", "auto"])
    def test_damage_is_never_trained_on(self, tmp_path: Path, name: str) -> None:
        put(tmp_path, CONTENTS, packed=False)
        path = tmp_path / FILES[0].name
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(DataError, match="has other bytes") as error:
            load_data(Data(name=name, root=str(tmp_path)), notice=ignore, source=quick(CONTENTS))
        assert error.value.exit_code == 65

    def test_without_network_it_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError):
            load_data(
                Data(name="mnist"),
                notice=ignore,
                source=quick(CONTENTS, dead_url()),
                cache=tmp_path,
            )

    @pytest.mark.parametrize(
        ("place", "array", "law"),
        [
            (0, np.zeros((60, 27, 28)), "must hold images of 28 x 28, but has shape (60, 27, 28)"),
            (1, np.zeros(59), "must hold one label for each of 60 images, but has shape (59,)"),
            (3, np.full(20, 10), "must hold labels from 0 to 9, but has 10"),
        ],
    )
    def test_files_that_do_not_fit_break_a_named_law(
        self, tmp_path: Path, place: int, array: np.ndarray, law: str
    ) -> None:
        contents = {**CONTENTS, FILES[place].name: idx_bytes(array)}
        put(tmp_path, contents)
        with pytest.raises(DataError) as error:
            load_data(Data(name="mnist", root=str(tmp_path)), notice=ignore, source=quick(contents))
        assert str(error.value) == f"{FILES[place].name} {law}"


class TestDigits:
    def test_numbers(self) -> None:
        data = load_data(Data(name="digits", validation_fraction=0.0), notice=pytest.fail)
        assert (data.name, data.scale, data.shape) == ("digits", 16, (8, 8))
        assert data.train.pixels.shape == (289, 64)
        assert counts(data.train) == [146, 143]
        assert counts(data.test) == [37, 36]
        assert data.train.pixels.dtype == data.train.labels.dtype == np.uint8
        assert data.train.pixels.max() == 16
        assert data.digest == DIGITS_DIGEST

    def test_labels_are_those_of_the_source(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        label_of = {
            pixels.astype(np.uint8).tobytes(): int(target == 7)
            for pixels, target in zip(bunch.data, bunch.target, strict=True)
        }
        data = load_data(Data(name="digits"), notice=pytest.fail)
        for part in (data.train, data.validation, data.test):
            expected = [label_of[pixels.tobytes()] for pixels in part.pixels]
            assert part.labels.tolist() == expected

    def test_they_are_the_same_where_the_file_of_scikit_learn_lies_elsewhere(
        self, monkeypatch
    ) -> None:
        quick = load_data(Data(name="digits"), notice=pytest.fail)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        public = load_data(Data(name="digits"), notice=pytest.fail)
        assert public.digest == quick.digest == DIGITS_DIGEST
        assert np.array_equal(public.train.pixels, quick.train.pixels)

    @settings(max_examples=15)
    @given(st.floats(0, 0.9), st.integers(0, 2**32 - 1))
    def test_the_parts_are_stratified_disjoint_complete_and_fixed(
        self, fraction: float, seed: int
    ) -> None:
        whole = load_data(Data(name="digits", validation_fraction=0.0), notice=pytest.fail)
        config = Data(name="digits", validation_fraction=fraction, split_seed=seed)
        data = load_data(config, notice=pytest.fail)
        place = {row: i for i, row in enumerate(rows(whole.train))}
        assert len(place) == len(whole.train)  # no two images are equal
        kept = [place[row] for row in rows(data.train)]
        held_out = [place[row] for row in rows(data.validation)]
        assert kept == sorted(kept)
        assert held_out == sorted(held_out)
        assert sorted(kept + held_out) == list(range(len(place)))
        assert counts(data.validation) == [
            max(1, round(fraction * n)) if fraction else 0 for n in counts(whole.train)
        ]
        assert rows(data.test) == rows(whole.test)
        assert data.digest == whole.digest

    def test_the_seed_alone_says_how_they_are_parted(self) -> None:
        one, again, other = (
            load_data(Data(name="digits", split_seed=seed), notice=pytest.fail)
            for seed in (0, 0, 1)
        )
        assert rows(one.validation) == rows(again.validation) != rows(other.validation)


class TestAuto:
    def test_it_is_mnist_where_the_files_are(self, tmp_path: Path) -> None:
        lines: list[str] = []
        data = load_data(
            Data(), notice=lines.append, source=quick(CONTENTS), cache=put(tmp_path, CONTENTS)
        )
        assert data.name == "mnist"
        assert lines == [f"data=auto is mnist, read from {tmp_path}"]

    def test_it_is_mnist_where_that_can_be_fetched(self, tmp_path: Path) -> None:
        with mirror(CONTENTS) as server:
            source = quick(CONTENTS, dead_url(), server.url)
            data = load_data(Data(), notice=ignore, source=source, cache=tmp_path)
        assert data.name == "mnist"

    def test_a_silent_network_is_given_five_seconds(self, tmp_path: Path) -> None:
        lines: list[str] = []
        with black_hole() as first, black_hole() as second:
            start = time.monotonic()
            source = quick(CONTENTS, first, second)
            data = load_data(Data(), notice=lines.append, source=source, cache=tmp_path)
        assert AUTO_SILENCE_S - 0.5 < time.monotonic() - start < AUTO_SILENCE_S + 2
        assert data.name == "digits"
        assert len(lines) == 1
        assert lines[0].startswith("data=auto is digits: MNIST could not be downloaded: ")
        assert "\n" not in lines[0]

    @pytest.mark.parametrize("fault", ["reset", "500", "404", "page", "truncated"])
    def test_a_broken_network_gives_digits_at_once(self, tmp_path: Path, fault: str) -> None:
        lines: list[str] = []
        with mirror(CONTENTS, fault, for_ever=True) as server:
            start = time.monotonic()
            source = quick(CONTENTS, server.url, dead_url())
            data = load_data(Data(), notice=lines.append, source=source, cache=tmp_path)
        assert time.monotonic() - start < 3
        assert data.name == "digits"
        assert lines[-1].startswith("data=auto is digits: MNIST could not be downloaded: ")
        assert list(tmp_path.iterdir()) == []

    def test_an_unusable_cache_gives_digits(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        lines: list[str] = []
        with mirror(CONTENTS) as server:
            source = quick(CONTENTS, server.url)
            data = load_data(Data(), notice=lines.append, source=source, cache=tmp_path / "file")
            with pytest.raises(StoreError):
                load_data(Data(name="mnist"), notice=ignore, source=source, cache=tmp_path / "file")
        assert data.name == "digits"
        assert "cannot be written" in lines[-1]

    def test_an_environment_that_names_no_files_gives_digits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "none"))
        lines: list[str] = []
        assert load_data(Data(), notice=lines.append).name == "digits"
        assert len(lines) == 1
        assert str(tmp_path / "none") in lines[0]

    def test_wrong_bytes_are_no_reason_for_digits(self, tmp_path: Path) -> None:
        with mirror(CONTENTS, "wrong", for_ever=True) as server, pytest.raises(DataError):
            load_data(Data(), notice=ignore, source=quick(CONTENTS, server.url), cache=tmp_path)

    def test_a_damaged_cache_is_no_reason_for_digits(self, tmp_path: Path) -> None:
        put(tmp_path, CONTENTS)
        (tmp_path / f"{FILES[0].name}.gz").write_bytes(b"")
        with pytest.raises(DataError, match="has other bytes"):
            load_data(Data(), notice=ignore, source=quick(CONTENTS, dead_url()), cache=tmp_path)

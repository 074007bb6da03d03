import re
import resource
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlp.data.fetch import MNIST, read_cache
from mlp.errors import DataError, StoreError, UnavailableError
from support.mirror import black_hole, dead_url, files_of, made_up_contents, mirror, put, quick

CONTENTS = made_up_contents()
NAMES = list(CONTENTS)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(*more: str) -> list[str]:
    return sorted([f"{name}.gz" for name in NAMES] + list(more))


def ignore(_line: str) -> None: ...


def test_the_mirrors_and_files_of_mnist_are_known() -> None:
    assert len(MNIST.files) == 4
    assert all(len(file.sha256) == 64 for file in MNIST.files)
    assert all(url.startswith("https://") and url.endswith("/") for url in MNIST.mirrors)


def test_a_download_is_kept_and_then_needs_no_network(cache: Path) -> None:
    lines: list[str] = []
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=lines.append) == CONTENTS
    assert server.requests == [f"{name}.gz" for name in NAMES]
    assert names_in(cache) == whole()
    assert lines == [f"MNIST is downloaded into {cache}"]
    assert read_cache(cache, quick(CONTENTS, dead_url()), notice=pytest.fail) == CONTENTS


def test_only_what_is_missing_is_downloaded(cache: Path) -> None:
    put(cache, CONTENTS)
    (cache / f"{NAMES[2]}.gz").unlink()
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS
    assert server.requests == [f"{NAMES[2]}.gz"]


def test_a_mirror_may_unpack(cache: Path) -> None:
    with mirror(CONTENTS, "unpacked", for_ever=True) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS
    assert names_in(cache) == sorted(NAMES)
    assert read_cache(cache, quick(CONTENTS), notice=pytest.fail) == CONTENTS


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reset", "reset by peer"),
        ("reset midway", "failed: "),
        ("stall", "was silent for 1.5 seconds|timed out"),
        ("stall midway", "was silent for 1.5 seconds|timed out"),
        ("trickle", "was silent for 1.5 seconds"),
        ("500", "500"),
        ("429", "429"),
        ("page", "is a web page"),
        ("empty", "is empty"),
        ("truncated", "is a gzip file that was cut short"),
    ],
)
def test_a_passing_fault_is_tried_again(cache: Path, fault: str, said: str) -> None:
    lines: list[str] = []
    with mirror(CONTENTS, fault, fault) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=lines.append) == CONTENTS
    assert len(server.requests) == 2 + 4
    assert names_in(cache) == whole()
    assert len(lines) == 1 + 2
    for line in lines[1:]:
        assert line.startswith(f"{server.url}{NAMES[0]}.gz ")
        assert any(words in line for words in said.split("|")), line


@pytest.mark.parametrize("fault", ["reset", "stall", "500", "404", "page", "truncated", "endless"])
def test_another_mirror_helps(cache: Path, fault: str) -> None:
    with mirror(CONTENTS, fault, for_ever=True) as bad, mirror(CONTENTS) as good:
        source = quick(CONTENTS, bad.url, good.url)
        assert read_cache(cache, source, notice=ignore) == CONTENTS
    assert len(bad.requests) == 1  # whoever failed least is asked
    assert names_in(cache) == whole()


@pytest.mark.parametrize("fault", ["wrong", "bit flip"])
def test_wrong_bytes_are_kept_apart_and_another_mirror_is_asked(cache: Path, fault: str) -> None:
    lines: list[str] = []
    with mirror(CONTENTS, fault) as bad, mirror(CONTENTS) as good:
        source = quick(CONTENTS, bad.url, good.url)
        assert read_cache(cache, source, notice=lines.append) == CONTENTS
    assert bad.requests == [f"{NAMES[0]}.gz"]  # no second question to a mirror with wrong bytes
    (kept,) = cache.glob("*.bad")
    assert names_in(cache) == whole(kept.name)
    assert str(kept) in lines[1]


def test_wrong_bytes_everywhere_are_an_error_with_both_digests(cache: Path) -> None:
    with mirror(CONTENTS, "wrong", for_ever=True) as server:
        source = quick(CONTENTS, server.url)
        for _ in range(2):
            with pytest.raises(DataError) as error:
                read_cache(cache, source, notice=ignore)
    (kept,) = cache.iterdir()  # the same bytes are kept once
    assert kept.name.startswith(f"{NAMES[0]}.gz.")
    assert kept.suffix == ".bad"
    found = str(error.value).partition("but is ")[2][:64]
    assert files_of(CONTENTS)[0].sha256 in str(error.value)
    assert found.startswith(kept.name.split(".")[-2])


def test_all_mirrors_dead_is_one_sentence_with_the_way_out(cache: Path) -> None:
    urls = (dead_url(), dead_url())
    with pytest.raises(UnavailableError) as error:
        read_cache(cache, quick(CONTENTS, *urls), notice=ignore)
    assert error.value.exit_code == 69
    assert all(urlsplit(url).netloc in str(error.value) for url in urls)
    assert "refused" in str(error.value)
    assert "data.root=FOLDER" in str(error.value)
    assert names_in(cache) == []
    with pytest.raises(UnavailableError, match="no mirror is known"):
        read_cache(cache, quick(CONTENTS), notice=ignore)


def test_what_arrived_before_a_mirror_died_is_kept(cache: Path) -> None:
    with mirror(CONTENTS, "none", "none", "404") as server, pytest.raises(UnavailableError):
        read_cache(cache, quick(CONTENTS, server.url), notice=ignore)
    assert names_in(cache) == [f"{name}.gz" for name in sorted(NAMES[:2])]


def test_a_hurried_source_bears_only_so_much_silence_in_all(cache: Path) -> None:
    with black_hole() as first, black_hole() as second:
        source = quick(CONTENTS, first, second).hurried(0.6)
        start = time.monotonic()
        with pytest.raises(UnavailableError, match=r"silent for 0\.3 seconds|timed out"):
            read_cache(cache, source, notice=ignore)
    assert 0.5 < time.monotonic() - start < 5  # 9 with all its patience


@pytest.mark.parametrize(
    "payload", [b"", b"<html>", b"foreign", b"\x1f\x8b\x08 cut"], ids=["empty", "page", "", "gzip"]
)
def test_a_cache_damaged_later_is_replaced_and_the_damage_kept(cache: Path, payload: bytes) -> None:
    put(cache, CONTENTS)
    damaged = cache / f"{NAMES[0]}.gz"
    damaged.write_bytes(payload)
    lines: list[str] = []
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=lines.append) == CONTENTS
    (kept,) = cache.glob("*.bad")
    assert kept.read_bytes() == payload
    assert names_in(cache) == whole(kept.name)
    assert files_of(CONTENTS)[0].sha256 in lines[-1]
    assert str(kept) in lines[-1]
    assert read_cache(cache, quick(CONTENTS), notice=pytest.fail) == CONTENTS


def test_a_damaged_cache_without_network_stays_and_is_an_error(cache: Path) -> None:
    put(cache, CONTENTS)
    damaged = cache / f"{NAMES[3]}.gz"
    damaged.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            read_cache(cache, quick(CONTENTS, dead_url()), notice=ignore)
        assert str(error.value).startswith(f"{damaged} is empty")
        assert files_of(CONTENTS)[3].sha256 in str(error.value)
        assert "was not replaced, as MNIST could not be downloaded" in str(error.value)
    assert names_in(cache) == whole()


def test_a_folder_in_the_place_of_a_cached_file_is_set_aside(cache: Path) -> None:
    put(cache, CONTENTS)
    (cache / NAMES[1]).mkdir()
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS
    assert names_in(cache) == whole(f"{NAMES[1]}.none.bad")


def test_an_unwritable_cache_fails_before_anything_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with mirror(CONTENTS) as server, pytest.raises(StoreError) as error:
            read_cache(folder, quick(CONTENTS, server.url), notice=ignore)
        assert error.value.exit_code == 74
        assert str(folder) in str(error.value)
        assert server.requests == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with mirror(CONTENTS) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(StoreError) as error:
                read_cache(cache, quick(CONTENTS, server.url), notice=ignore)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(cache) in str(error.value)
    assert re.search(r"\(\d{5} bytes needed\)", str(error.value))
    assert names_in(cache) == []


def test_many_first_starts_at_once(cache: Path) -> None:
    results: list[dict[str, bytes]] = []
    with mirror(CONTENTS) as server:
        source = quick(CONTENTS, server.url)

        def start() -> None:
            results.append(read_cache(cache, source, notice=ignore))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [CONTENTS] * 4
    assert names_in(cache) == whole()

import resource
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlp.data.mnist import MNIST, read_cache, read_folder
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
    assert {len(file.sha256 + file.packed_sha256) for file in MNIST.files} == {128}
    assert all(url.startswith("https://") and url.endswith("/") for url in MNIST.mirrors)


def test_a_download_is_kept_and_then_needs_no_network(cache: Path) -> None:
    lines: list[str] = []
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=lines.append) == CONTENTS
    assert server.requests == [f"{name}.gz" for name in NAMES]
    assert names_in(cache) == whole()
    assert lines == [f"MNIST (11 MB) is downloaded into {cache}"]
    assert read_cache(cache, quick(CONTENTS, dead_url()), notice=pytest.fail) == CONTENTS


def test_only_what_is_missing_is_downloaded(cache: Path) -> None:
    put(cache, CONTENTS)
    (cache / f"{NAMES[2]}.gz").unlink()
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS
    assert server.requests == [f"{NAMES[2]}.gz"]


@pytest.mark.parametrize("fault", ["reset", "reset midway", "stall", "stall midway", "500", "429"])
def test_a_passing_fault_is_tried_again(cache: Path, fault: str) -> None:
    with mirror(CONTENTS, fault) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS
    assert len(server.requests) == 1 + 4
    assert names_in(cache) == whole()


@pytest.mark.parametrize("fault", ["404", "page", "empty", "truncated", "wrong", "bit flip"])
def test_another_mirror_helps(cache: Path, fault: str) -> None:
    with mirror(CONTENTS, fault, for_ever=True) as bad, mirror(CONTENTS) as good:
        source = replace(quick(CONTENTS, bad.url, good.url), retries=0)
        assert read_cache(cache, source, notice=ignore) == CONTENTS
    assert good.requests == [f"{name}.gz" for name in NAMES]
    assert names_in(cache) == whole()


@pytest.mark.parametrize("fault", ["wrong", "bit flip"])
def test_wrong_bytes_everywhere_are_an_error(cache: Path, fault: str) -> None:
    with mirror(CONTENTS, fault, for_ever=True) as server:
        source = replace(quick(CONTENTS, server.url, dead_url()), retries=0)
        with pytest.raises(DataError) as error:
            read_cache(cache, source, notice=ignore)
    assert f"{server.url}{NAMES[0]}.gz has other bytes than were published" in str(error.value)
    assert names_in(cache) == []


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
    with mirror(CONTENTS, "none", "none", "404", "404") as server, pytest.raises(UnavailableError):
        read_cache(cache, quick(CONTENTS, server.url), notice=ignore)
    assert names_in(cache) == [f"{name}.gz" for name in sorted(NAMES[:2])]


def test_a_mirror_that_does_not_answer_in_time_is_not_used(cache: Path) -> None:
    with black_hole() as silent, mirror(CONTENTS) as server:
        source = replace(quick(CONTENTS, silent, server.url), is_asked_first=True)
        assert read_cache(cache, source, notice=ignore) == CONTENTS
        source = replace(source, mirrors=(silent, silent))
        start = time.monotonic()
        with pytest.raises(UnavailableError, match=r"no mirror answered|timed out"):
            read_cache(cache / "other", source, notice=ignore)
    assert 0.4 < time.monotonic() - start < 3


@pytest.mark.parametrize(
    "payload", [b"", b"<html>", b"\x1f\x8b\x08 cut"], ids=["empty", "page", "gzip"]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_cache_damaged_later_is_replaced(cache: Path, payload: bytes, suffix: str) -> None:
    put(cache, CONTENTS)
    (cache / f"{NAMES[0]}{suffix}").write_bytes(payload)
    with mirror(CONTENTS) as server:
        assert read_cache(cache, quick(CONTENTS, server.url), notice=ignore) == CONTENTS


def test_a_damaged_unpacked_file_does_not_hide_a_packed_one_that_is_whole(cache: Path) -> None:
    put(cache, CONTENTS)
    (cache / NAMES[0]).write_bytes(b"cut")
    source = quick(CONTENTS, dead_url())
    assert read_cache(cache, source, notice=ignore) == CONTENTS
    assert read_folder(cache, source.files) == CONTENTS


def test_a_damaged_cache_without_network_stays_and_is_an_error(cache: Path) -> None:
    put(cache, CONTENTS)
    damaged = cache / f"{NAMES[3]}.gz"
    damaged.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            read_cache(cache, quick(CONTENTS, dead_url()), notice=ignore)
        assert str(error.value).startswith(f"{damaged} has other bytes")
        assert files_of(CONTENTS)[3].sha256 in str(error.value)
        assert "was not replaced, as MNIST could not be downloaded" in str(error.value)
    assert names_in(cache) == whole()


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

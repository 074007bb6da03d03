"""The files of a run from wherever the store says they are, trusting neither it nor them.

A store names the address of a run's files. It may be any that MLflow knows, so only those are
followed that lead to the store itself, to a folder, or to an object store.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlp.errors import RecordError, one_line, shown
from mlp.tracking import npz, record
from mlp.tracking.recipe import LARGEST_TEXT, read_recipe
from mlp.tracking.record import CONFIG_FILE, CURVE_FILE, WEIGHTS_FILE

_OF_FOLDERS = ("", "file")
_OF_CLOUDS = ("s3", "gs", "wasbs", "abfss")
_OF_SERVERS = ("mlflow-artifacts", *_OF_CLOUDS)


def download(uri: str, address: str, folder: Path) -> None:
    """Downloads the three files of a run, none larger than its config allows.

    Args:
        uri: of the tracking store.
        address: of the run's files, as the store says.
        folder: to be filled; nothing is written anywhere else.

    Raises:
        RecordError: for an address that is not followed, and for files that are missing or too
            large.
        Exception: whatever MLflow raises.
    """
    repository = _repository(uri, address)
    sizes = _sizes(repository)
    _get(repository, CONFIG_FILE, folder, sizes.get(CONFIG_FILE), LARGEST_TEXT)
    run = read_recipe(record.read_text(folder / CONFIG_FILE)).config
    for name, expected in (
        (CURVE_FILE, record.expected_curve(run)),
        (WEIGHTS_FILE, record.expected_weights(run)),
    ):
        _get(repository, name, folder, sizes.get(name), npz.largest_file(expected))


def download_text(uri: str, address: str, name: str, folder: Path) -> None:
    """Downloads one text of a run, as `download` does.

    Args:
        uri: of the tracking store.
        address: of the run's files, as the store says.
        name: of the text.
        folder: to be filled.
    """
    repository = _repository(uri, address)
    _get(repository, name, folder, _sizes(repository).get(name), LARGEST_TEXT)


def _repository(uri: str, address: str) -> ArtifactRepository:
    """Where a run's files are, if that is an address that is followed."""
    where = urlsplit(address)
    is_other_host = where.scheme not in _OF_CLOUDS and where.netloc not in (
        "",
        urlsplit(uri).netloc,
    )
    allowed = _OF_FOLDERS if uri.startswith("sqlite") else (*_OF_FOLDERS, *_OF_SERVERS)
    if where.scheme not in allowed or is_other_host:
        raise RecordError(f"the files of the run are at {shown(address)}, which is not followed")
    return get_artifact_repository(address, tracking_uri=uri)


def _sizes(repository: ArtifactRepository) -> dict[str, int]:
    try:
        files = repository.list_artifacts()
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # MLflow checks no answer
        raise RecordError(
            f"the list of the run's files cannot be read: {one_line(error)}"
        ) from None
    return {file.path: file.file_size or 0 for file in files if not file.is_dir}


def _get(
    repository: ArtifactRepository, name: str, folder: Path, size: int | None, most: int
) -> None:
    if size is None or not 0 < size <= most:
        found = "is missing" if size is None else f"has {size} bytes"
        raise RecordError(f"the run must have a {name} of 1 to {most} bytes, but it {found}")
    with _no_file_larger_than(most):  # the size was what a server said
        repository.download_artifacts(name, str(folder))


@contextmanager
def _no_file_larger_than(most: int) -> Iterator[None]:
    """The system ends each write beyond the limit with an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    hardest = before[1]
    limit = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hardest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

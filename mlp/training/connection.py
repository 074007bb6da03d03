"""Joins a Ray cluster, and says in one sentence what is wrong with it.

Importing this imports Ray, an extra.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from traceback import walk_tb
from typing import Any

# Who trains at home expects nothing to be sent anywhere; Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 20 would be a quarter of an hour
# A call after the connection is lost would start a cluster here, and train on that.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray
from ray import exceptions as faults

from mlp.config import Execution
from mlp.errors import SystemLimitError, UnavailableError, one_line

FAR = "ray://"  # how the address begins that Ray's client takes
_KNOCK_S = 5.0  # for a first answer
_N_TRIES = 3
_STILLBORN = "Starting Ray client server failed"  # as Ray says it
_LEAVE_S = 5.0  # for good-byes to a cluster that may be gone
# From a cluster that does not answer: a process can be in one only.
_leaving: list[threading.Thread] = []
# Ray hands a token to the cluster that it finds by itself, and to another one only if told so.
_TOKEN = "; if it asks for a token: export RAY_AUTH_MODE=token"


def connect(execution: Execution, n_threads: int) -> None:
    """Joins the cluster at the address; `local` starts one that goes with this process.

    Args:
        execution: says where the cluster is.
        n_threads: of a population; a local cluster has as many CPUs at least.

    Raises:
        UnavailableError: where none answers, or the last one is not left yet.
        SystemLimitError: where Python or Ray has another version.
    """
    _join_the_leaving()
    _keep_ray_quiet(is_far=execution.address.startswith(FAR))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if execution.address == "local":
        options["num_cpus"] = max(n_threads, len(os.sched_getaffinity(0)))
        options["include_dashboard"] = False
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with one_sentence(execution.address):
            _knock(execution.address)
        # Ray's client warns before it gives up.
        with (
            _outliving_the_head(is_own=execution.address == "local"),
            one_sentence(execution.address, _TOKEN),
            warnings.catch_warnings(action="ignore"),
        ):
            _init(address=execution.address, **options)
    finally:  # Ray puts its own in their place
        if threading.current_thread() is threading.main_thread():
            for number, handler in heard.items():
                signal.signal(number, handler)


def _init(**options: Any) -> None:
    """`ray.init`, again where the process that the head starts for each of Ray's clients dies.

    On a busy head it does now and then, within half a second and without a word.
    """
    for n_left in reversed(range(_N_TRIES)):
        try:
            ray.init(**options)
            return
        except ConnectionError as error:
            if _STILLBORN not in str(error) or not n_left:
                raise


def leave(refs: Sequence[Any]) -> None:
    """Leaves the cluster, and ends what still trains there; takes five seconds at most.

    Args:
        refs: of what still trains.
    """

    def say_good_bye() -> None:
        with contextlib.suppress(Exception):
            for ref in refs:
                ray.cancel(ref, force=True)
        with contextlib.suppress(Exception):
            ray.shutdown()

    leaving = threading.Thread(target=say_good_bye, daemon=True)
    leaving.start()
    leaving.join(_LEAVE_S)  # a head that is gone answers no good-bye
    if leaving.is_alive():
        _leaving.append(leaving)


def _join_the_leaving() -> None:
    for thread in _leaving:
        thread.join(3 * _LEAVE_S)
    _leaving[:] = [thread for thread in _leaving if thread.is_alive()]
    if _leaving:
        raise UnavailableError(
            "this process has not left its last Ray cluster yet, whose head is gone; "
            "try again in a minute, or in another process"
        )


@contextlib.contextmanager
def _outliving_the_head(*, is_own: bool) -> Iterator[None]:
    """Joined meanwhile, a cluster that loses its head does not take this process along.

    Ray would end it, a notebook too, after a minute, even if it had left the cluster by then. How
    long to wait for a head is decided in `mlp.training.cluster`. The processes of a cluster of one's
    own, which are started meanwhile, are to go with it.
    """
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"  # read by `ray.init`
    if is_own or name in os.environ:
        yield
        return
    os.environ[name] = "1000000"
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def one_sentence(address: str = "", otherwise: str = "") -> Iterator[None]:
    """Turns what Ray raises of itself into one of this program's errors."""
    where = f" at {address}" if address else ""
    try:
        yield
    except ConnectionError as error:
        raise UnavailableError(
            f"no Ray cluster answers{where}: {one_line(error)}; "
            f"start one with: ray start --head, or name another by execution.address{otherwise}"
        ) from None
    except RuntimeError as error:
        if "ersion mismatch" in str(error):
            raise SystemLimitError(
                f"the Ray cluster{where} has other versions than are here: {one_line(error)}"
            ) from None
        raise
    except (faults.AuthenticationError, faults.RpcError, faults.RaySystemError) as error:
        raise UnavailableError(f"the Ray cluster{where} failed: {one_line(error)}") from None


def _knock(address: str) -> None:
    """Whether anybody is at an address at all: Ray itself tries for most of a minute.

    Raises:
        ConnectionError: if not.
    """
    host, _, port = address.removeprefix(FAR).rpartition(":")
    if not (host and port.isdigit()):
        return  # auto and local are no addresses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(one_line(error)) from None


def _keep_ray_quiet(*, is_far: bool) -> None:
    """Ray prints pages of its own logs into this program's output when a machine goes."""
    module = sys.modules["ray._private.worker"]
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    if is_far:
        from ray.util.client.logsclient import LogstreamClient  # needs grpcio

        LogstreamClient.stdstream = lambda *_, **__: None
        logging.getLogger("ray.util.client").setLevel(logging.CRITICAL)
        # This one sets its level itself, and does not pass on to the former.
        logging.getLogger(LogstreamClient.__module__).addHandler(logging.NullHandler())
        _keep_grpc_quiet()


def _keep_grpc_quiet() -> None:
    """The thread of gRPC that watches a channel ends without a traceback if that is closed."""
    usual = threading.excepthook
    if getattr(usual, "is_quiet_on_grpc", False):
        return

    def tell(args: threading.ExceptHookArgs) -> None:
        names = {frame.f_code.co_name for frame, _ in walk_tb(args.exc_traceback)}
        if not (args.exc_type is ValueError and "_poll_connectivity" in names):
            usual(args)

    tell.is_quiet_on_grpc = True  # type: ignore[attr-defined]
    threading.excepthook = tell

"""Training on a Ray cluster of two machines of one CPU, and everything that may befall it.

The cluster is real, but all of it runs here. Each test ends with the same bits as this process.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from numba import cuda

from mlp.config import Execution
from mlp.data.dataset import examples_for, load_data
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError, UnavailableError
from mlp.settings import read_run, read_sweep, with_settings
from mlp.study import search
from mlp.study.identity import identity
from mlp.study.storage import storage_in_memory
from mlp.terminal.compose import compose
from mlp.tracking.read import fetch_run
from mlp.tracking.record import curve_digest, sharpness_digest, weights_digest
from mlp.tracking.store import open_store
from mlp.training import ray_cluster
from mlp.training.train_runs import open_executor, train_runs
from support import own_descent
from support.clusters import (
    add_node,
    head_with_door,
    raylet_of,
    two_nodes,
    workers,
)
from support.servers import long
from support.sweeping import (
    SMOKE,
    command,
    environment_of_commands,
    parent,
    start,
    sweep,
    table,
    tracked,
)
from support.training import results_of

BASE = read_run({"data": {"name": "digits"}, "training": {"steps": 3000, "sharpness_points": 3}})


@pytest.fixture(scope="module")
def data():
    return load_data(BASE.data, notice=print)


@pytest.fixture(scope="module")
def configs():
    draw = random.Random(0)
    settings = [
        {
            "model.depth": (depth := draw.randint(1, 3)),
            "model.widths": [draw.randint(2, 24) for _ in range(depth)],
            "optimizer.learning_rate": 10 ** draw.uniform(-2, 1.5),
        }
        for _ in range(12)
    ]
    return [with_settings(BASE, each) for each in settings]


@pytest.fixture(scope="module")
def expected(configs, data):
    return digests(results_of(configs, data, Execution()))


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as running:
        yield running


@pytest.fixture
def notices():
    return []


@pytest.fixture
def executor(cluster, notices):
    with open_executor(over(cluster), notice=notices.append) as opened:
        yield opened


def over(cluster, **settings):
    return Execution(engine="ray", address=cluster.address, **settings)


def digests(results):
    return [(curve_digest(r), weights_digest(r), sharpness_digest(r)) for r in results]


class meanwhile:  # noqa: N801  a context manager
    """Does something once to a worker that trains just then, or to what is around it."""

    def __init__(self, cluster, harm) -> None:
        self.cluster = cluster
        self.thread = threading.Thread(target=self._wait_and, args=(harm,))
        self.over = threading.Event()
        self.is_done = False

    def _wait_and(self, harm) -> None:
        while not self.over.wait(0.05):
            if found := workers(self.cluster):
                harm(found[0])
                self.is_done = True
                return

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, error: object, *_: object) -> None:
        self.over.set()
        self.thread.join()
        assert error or self.is_done, "nothing was at work to be harmed"


def test_same_bits_as_in_this_process(executor, configs, data, expected):
    assert executor.slots() == 2
    told, kept = [], []
    results = results_of(
        configs,
        data,
        executor,
        progress=lambda done, _: told.append(done),
        finished=kept.extend,
    )
    assert digests(results) == expected
    assert sorted(kept) == list(range(len(configs)))
    assert told == sorted(told) or max(told) <= len(configs)
    assert 0 <= executor.idle_share() < 1
    assert executor.idle_share() is None


def test_thresholds_prune_there_as_here(executor, configs, data):
    bar = {500: 0.9, 1000: 0.97}
    here = results_of(configs, data, Execution(), thresholds=bar)
    there = results_of(configs, data, executor, thresholds=bar)
    assert digests(here) == digests(there)
    assert Ending.PRUNED in {result.ending for result in here}


def test_own_functions_give_the_same_bits_and_faults(cluster, here):
    shutil.copy(own_descent.__file__, here / "mine.py")
    (here / "raises.py").write_text("def train():\n    yield 1.0\n    {}['x']\n")
    base, failing = (read_run({"own": {"file": name}}) for name in ("mine.py", "raises.py"))
    configs = [with_settings(base, {"own.rate": rate}) for rate in (0.1, 0.5, 4.0, 8.0)]
    _, data = examples_for(base, notice=print)
    _, other = examples_for(failing, notice=print)
    expected = results_of(configs, data, Execution(threads=2))
    assert digests(results_of(configs, data, over(cluster))) == digests(expected)
    [failed] = results_of([failing], other, over(cluster))
    assert failed.ending is Ending.FAILED
    assert failed.own.fault == "KeyError: 'x' (raises.py, line 3: {}['x'])"


def test_killed_worker(cluster, executor, configs, data, expected, notices, tmp_path):
    """Killed while it is at work, and not before the driver has heard of it."""
    with meanwhile(cluster, lambda _: kill(known_worker(executor, (tmp_path / "victim")))):
        found = results_of(configs, data, executor, trainer=first_waits(tmp_path / "victim"))
    assert digests(found) == expected
    assert any("trained again: " in line and "died" in line for line in notices), notices


def first_waits(victim):
    """A trainer whose first worker trains nothing until it is killed; the others do as ever."""

    def train(configs, data, *, progress, **options):
        import os
        import time

        from mlp.training.work import train_population

        try:
            victim.symlink_to(str(os.getpid()))
        except FileExistsError:
            return train_population(configs, data, progress=progress, **options)
        for _ in range(1000):
            progress(0.0, None)
            time.sleep(0.1)
        raise RuntimeError("nobody has killed this worker")

    return train


def test_a_population_that_asks_for_a_gpu_gets_one(monkeypatch, data):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")  # for the workers
    few = dataclasses.replace(
        data,
        train=examples(data.train, 12),
        validation=examples(data.validation, 8),
    )
    small = {"model.widths": [2, 2], "training.steps": 2, "training.sharpness_points": 0}
    configs = [with_settings(BASE, small | {"training.seed": seed}) for seed in range(2)]
    with (
        two_nodes(head_gpus=1) as cluster,
        open_executor(over(cluster, gpu=True)) as executor,
    ):
        assert executor.slots() == 1  # the other machine has none
        found = [record.result for record in train_runs(configs, few, executor)]
    assert digests(found) == digests(results_of(configs, few, Execution()))


@pytest.mark.skipif(cuda.is_available(), reason="there is one")
def test_a_cluster_of_its_own_without_a_gpu_is_said(here):
    there = ["execution=ray", "execution.address=local", "execution.gpu=true"]
    done = command("train", "data=digits", *there, cwd=here)
    assert done.returncode == 69
    assert "execution.gpu=true finds no GPU in the cluster" in done.stderr


def examples(part, n):
    return dataclasses.replace(part, pixels=part.pixels[:n], labels=part.labels[:n])


@long
def test_frozen_worker_is_given_up(configs, data, expected, notices):
    with (
        two_nodes() as cluster,
        open_executor(over(cluster, silence_s=4.0), notice=notices.append) as executor,
        meanwhile(cluster, lambda _: os.kill(known_worker(executor), signal.SIGSTOP)),
    ):
        assert digests(results_of(configs, data, executor)) == expected
    assert any("said nothing for" in line for line in notices)


def known_worker(executor, victim=None):
    """A worker that the driver has heard of; the one that a link names, if there is a link."""
    while True:
        words = [executor._words.get(key) for key, _ in list(executor._running.values())]
        known = [word[0].split()[1] for word in words if word]
        if victim is not None:
            known = [pid for pid in known if victim.is_symlink() and str(victim.readlink()) == pid]
        if known:
            return int(known[0])
        time.sleep(0.01)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# A trial that is the reason


def test_poisoned_trial_is_recorded_as_crashed_and_its_neighbours_kept(
    executor, configs, data, expected, notices
):
    bad = poisoned(configs[5].optimizer.learning_rate, "os.kill(os.getpid(), 9)")
    results = results_of(configs, data, executor, trainer=bad)
    check_only_trial_5_crashed(results, expected)
    assert any("trials are trained one by one: " in line for line in notices)
    assert notices[-1].startswith("a trial is given up and recorded as crashed: ")


def test_trial_that_raises_as_where_memory_is_short_takes_nobody_along(
    executor, configs, data, expected, notices
):
    bad = poisoned(configs[5].optimizer.learning_rate, "raise MemoryError('too much')")
    check_only_trial_5_crashed(results_of(configs, data, executor, trainer=bad), expected)
    assert "its training raised MemoryError: too much" in notices[-1]


@long
def test_trial_that_hangs_is_ended(cluster, configs, data, expected, notices):
    bad = poisoned(configs[5].optimizer.learning_rate, "time.sleep(1000)")
    with open_executor(over(cluster, silence_s=15.0), notice=notices.append) as executor:
        check_only_trial_5_crashed(results_of(configs, data, executor, trainer=bad), expected)
    assert "said nothing for" in notices[-1]


def poisoned(rate, deed):
    """A trainer that does something bad to trials with this rate; it travels to workers as code."""

    def train(configs, data, **options):
        import os
        import time

        from mlp.training.work import train_population

        if any(config.optimizer.learning_rate == rate for config in configs):
            exec(deed, {"os": os, "time": time})
        return train_population(configs, data, **options)

    return train


def check_only_trial_5_crashed(results, expected):
    assert [i for i, r in enumerate(results) if r.ending is Ending.CRASHED] == [5]
    assert results[5].weights == ()
    others = [i for i in range(len(expected)) if i != 5]
    found = digests(results)
    assert [found[i] for i in others] == [expected[i] for i in others]


# Whole sweeps


def test_sweep_has_the_same_table_and_says_how_idle_the_workers_were(cluster, here, made_store):
    (here / "alone").mkdir()
    shutil.copy(made_store, here / "alone" / "mlflow.db")
    words = (*SMOKE, "study.n_trials=8", "study.generation=8")
    done = command("sweep", *words, *on(cluster), cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert command("sweep", *words, cwd=here / "alone").returncode == 0
    assert table(here) == table(here / "alone")
    assert 0 <= parent(here).metrics["idle_share"] < 1


@long
def test_driver_that_is_killed_goes_on_to_the_same_end(cluster, here, made_store):
    (here / "alone").mkdir()
    shutil.copy(made_store, here / "alone" / "mlflow.db")
    words = (*SMOKE, "training.steps=4000", "study.n_trials=12", "study.generation=6")
    with start("sweep", *words, *on(cluster)) as process:
        while not list(here.glob("optuna.db.spool/*/*")) and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = command("sweep", *words, *on(cluster), cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert command("sweep", *words, cwd=here / "alone").returncode == 0
    assert table(here) == table(here / "alone")
    assert {run.status for run in tracked(here)} == {"FINISHED"}


def test_ctrl_c_ends_in_order(cluster, here):
    words = (*SMOKE, "training.steps=5000000", "study.n_trials=2")
    with start("sweep", *words, *on(cluster)) as process:
        while not workers(cluster) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == "ended by SIGINT\n"
    assert "0 of 2 trials are kept, and the same command goes on from there" in said
    end = time.monotonic() + 20
    while workers(cluster):  # nobody trains for a driver that is gone
        assert time.monotonic() < end
        time.sleep(0.2)


def test_crashed_trial_is_in_the_study_and_in_mlflow(executor, here, monkeypatch):
    """Every worker that gets trial 1 dies; the sweep ends, and the next one trains nothing."""
    config = read_sweep(compose("sweep", [*SMOKE, "study.n_trials=4", "study.generation=4"]))
    rate = search_first(config, 1)
    bad = poisoned(rate, "os.kill(os.getpid(), 9)")
    monkeypatch.setitem(train_runs.__kwdefaults__, "trainer", bad)
    monkeypatch.setattr("mlp.sweep.run_study.open_executor", given(executor))
    said = sweep("study.n_trials=4", "study.generation=4")
    assert "trial 1 is recorded as crashed" in said
    rows = table(here)
    assert [(row.state, row.verdict) for row in rows if row.number == 1] == [("PRUNED", "diverged")]
    assert [row.state for row in rows].count("COMPLETE") == 3
    [run] = (run for run in tracked(here) if run.tags.get("mlp.trial") == "1")
    assert run.tags["mlp.ending"] == "crashed"
    assert run.status == "FINISHED"
    fetched = fetch_run(open_store(config.base.tracking), run.run_id)
    assert fetched.recipe.ending is Ending.CRASHED
    assert fetched.result.weights == ()
    monkeypatch.undo()
    os.chdir(here)
    assert "nothing to train" in sweep("study.n_trials=4", "study.generation=4")


def on(cluster):
    return "execution=ray", f"execution.address={cluster.address}"


def search_first(config, number):
    """The learning rate of a trial of the first generation."""
    data = load_data(config.base.data, notice=print)
    what = identity(config, data.name, data.digest)
    opened = search.open_search(storage_in_memory(), config, what)
    return search.ask(opened)[number].config.optimizer.learning_rate


def given(executor):
    @contextlib.contextmanager
    def opened(_, *, notice):
        executor.notice = notice
        yield executor

    return opened


# Machines


@long
def test_killed_machine(configs, data, expected, notices, capfd):
    with two_nodes() as cluster, open_executor(over(cluster), notice=notices.append) as executor:
        [other] = cluster.worker_nodes
        with meanwhile(cluster, lambda _: kill(raylet_of(other))):
            assert digests(results_of(configs, data, executor)) == expected
        assert not any("crashed" in line for line in notices)
    assert capfd.readouterr() == ("", "")  # Ray tells of it in pages of its own


@long
def test_frozen_machine(configs, data, expected, notices):
    """Its worker may wait for ever for examples, and Ray does not miss it for minutes."""
    with (
        two_nodes() as cluster,
        open_executor(over(cluster, silence_s=20.0), notice=notices.append) as executor,
    ):
        [other] = cluster.worker_nodes

        with meanwhile(cluster, lambda _: os.kill(raylet_of(other), signal.SIGSTOP)):
            assert digests(results_of(configs, data, executor)) == expected
        assert not any("crashed" in line for line in notices)


@long
def test_cluster_that_shrinks_to_nothing_and_comes_back(configs, data, expected, notices):
    with (
        two_nodes(head_cpus=0) as cluster,
        open_executor(over(cluster), notice=notices.append) as executor,
    ):
        [other] = cluster.worker_nodes
        killed_at = []

        def replace(*_: object) -> None:
            if not killed_at and workers(cluster):
                kill(raylet_of(other))
                killed_at.append(time.monotonic())
            elif len(killed_at) == 1 and time.monotonic() - killed_at[0] > 4:
                killed_at.append(0.0)
                add_node(cluster)

        found = digests(results_of(configs, data, executor, progress=replace))
        assert len(killed_at) == 2
        assert found == expected


@long
def test_head_that_is_lost_is_one_sentence(configs, data, monkeypatch):
    """This process is its driver, and goes on: Ray would end it while the next tests run."""
    monkeypatch.setattr("mlp.training.ray_cluster._HEAD_PATIENCE_S", 5.0)
    long = [with_settings(config, {"training.steps": 10**8}) for config in configs]
    with two_nodes() as cluster:
        head = cluster.head_node.all_processes["gcs_server"][0].process.pid
        with (
            meanwhile(cluster, lambda _: kill(head)),
            pytest.raises(UnavailableError, match="head of the Ray cluster"),
        ):
            results_of(long, data, over(cluster))


@long
def test_lost_head_does_not_end_the_process_later(tmp_path):
    """Ray would end it after 60 seconds; and it can join another cluster right away."""
    environment = environment_of_commands()
    environment["PYTHONPATH"] += (
        f"{os.pathsep}{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1]}"
    )
    done = subprocess.run(
        [sys.executable, "-c", OUTLIVING],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["outlived"]), done.stderr


OUTLIVING = """
import time

from support.clusters import two_nodes
from support.training import results_of
from test_cluster import BASE, kill, meanwhile, over

from mlp.data.dataset import load_data
from mlp.settings import with_settings
from mlp.errors import UnavailableError
from mlp.training import ray_cluster as module

module._HEAD_PATIENCE_S, module._LOOK_S = 3.0, 0.5
data = load_data(BASE.data, notice=print)
endless = [with_settings(BASE, {"training.steps": 10**8, "training.sharpness_points": 0})]
short = [with_settings(BASE, {"training.steps": 20, "training.sharpness_points": 0})]
with two_nodes() as cluster:
    results_of(short, data, over(cluster))
with two_nodes() as cluster:
    head = cluster.head_node.all_processes["gcs_server"][0].process.pid
    try:
        with meanwhile(cluster, lambda _: kill(head)):
            results_of(endless, data, over(cluster))
    except UnavailableError as error:
        print(error)
lost_at = time.monotonic()
module._HEAD_PATIENCE_S = 30.0
with two_nodes() as cluster:
    [result] = results_of(short, data, over(cluster))
    assert result.last_step == 20
time.sleep(max(0.0, lost_at + 75 - time.monotonic()))
print("outlived")
"""

HASTY = """
import sys
from mlp.training import ray_cluster
from mlp.sweep.__main__ import main
ray_cluster._HEAD_PATIENCE_S, ray_cluster._LOOK_S = 3.0, 0.5
sys.argv[0] = "sweep"
main()
"""


@long
def test_sweep_whose_head_was_lost_goes_on_with_another_cluster(here, made_store):
    """Lost while the second of two generations trains; nothing of the first is trained again.

    A generation takes some 15 seconds on slow cores; it must outlast the driver's patience of 3.
    """
    (here / "alone").mkdir()
    shutil.copy(made_store, here / "alone" / "mlflow.db")
    words = (*SMOKE, "training.steps=200000", "study.n_trials=8", "study.generation=4")
    with two_nodes() as cluster:
        head = cluster.head_node.all_processes["gcs_server"][0].process.pid
        with subprocess.Popen(
            [sys.executable, "-c", HASTY, *words, *on(cluster)],
            env=environment_of_commands(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while n_stored(here) < 4 or not workers(cluster):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            kill(head)
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 69, errors
    assert errors.startswith("error: the head of the Ray cluster has not answered for 3 seconds; ")
    assert n_stored(here) == 4
    first = {run.run_id for run in tracked(here) if "mlp.trial" in run.tags}
    with two_nodes() as cluster:
        done = command("sweep", *words, *on(cluster))
    assert (done.returncode, done.stderr) == (0, "")
    assert {run.run_id for run in tracked(here) if "mlp.trial" in run.tags} > first
    assert {run.status for run in tracked(here)} == {"FINISHED"}
    assert command("sweep", *words, cwd=here / "alone").returncode == 0
    assert table(here) == table(here / "alone")


def n_stored(folder):
    """How many trials the study has by now."""
    with contextlib.suppress(sqlite3.Error), sqlite3.connect(folder / "optuna.db") as file:
        return file.execute("SELECT count(*) FROM trials").fetchone()[0]
    return 0


# From outside, by Ray's client


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with head_with_door(tmp_path_factory.mktemp("head")) as head:
        yield head


@long
def test_sweep_from_outside_the_cluster_has_the_same_table(door, here, made_store, monkeypatch):
    """A worker is killed meanwhile."""
    for name, value in door.token.items():
        monkeypatch.setenv(name, value)
    (here / "alone").mkdir()
    shutil.copy(made_store, here / "alone" / "mlflow.db")
    words = (*SMOKE, "training.steps=20000", "study.n_trials=8", "study.generation=8")
    with (
        start("sweep", *words, *on(door)) as process,
        meanwhile(door, kill),
    ):
        said, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")
    assert "crashed" not in said
    assert command("sweep", *words, cwd=here / "alone").returncode == 0
    assert table(here) == table(here / "alone")


@long
def test_cluster_that_asks_for_a_token_is_one_sentence(door, here):
    soon = {f"RAY_CLIENT_{which}_CONNECTION_TIMEOUT_S": "1" for which in ("INITIAL", "MAX")}
    done = command("sweep", *SMOKE, *on(door), RAY_AUTH_MODE="disabled", **soon)
    assert done.returncode == 69
    last = done.stderr.splitlines()[-1]  # Ray's client may have said something before
    assert last.startswith(f"error: no Ray cluster answers at {door.address}: ")
    assert last.endswith("if it asks for a token: export RAY_AUTH_MODE=token")
    assert "Traceback" not in done.stderr


@long
def test_head_that_is_lost_from_outside_is_one_sentence(here, tmp_path, monkeypatch):
    with head_with_door(tmp_path) as head:
        for name, value in head.token.items():
            monkeypatch.setenv(name, value)
        words = (*SMOKE, "training.steps=5000000", "study.n_trials=2")
        with (
            start("sweep", *words, *on(head)) as process,
            meanwhile(head, lambda _: os.kill(head.pid, signal.SIGTERM)),
        ):
            _, errors = process.communicate(timeout=180)
    assert process.returncode == 69, errors
    assert any(line.startswith("error: ") for line in errors.splitlines()), errors


# What is refused


@pytest.mark.parametrize(
    ("fault", "is_tried_again"),
    [
        ("Starting Ray client server failed. See x.err", True),
        ("ray client connection timeout", True),
        ("no route to host", False),
    ],
)
def test_head_that_is_slow_with_a_client_is_asked_again(monkeypatch, fault, is_tried_again):
    monkeypatch.setattr("mlp.training.ray_cluster._CONNECT_S", 0.1)
    tried = []

    def init(**options):
        tried.append(options["address"])
        raise ConnectionError(fault)

    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(UnavailableError, match=fault),
        open_executor(Execution(engine="ray", address="auto")),
    ):
        pass
    assert (len(tried) > 1) == is_tried_again


def test_what_ray_prints_goes_through_the_function_that_is_silenced():
    """It is private; if Ray renames it, its pages of logs come into this program's output again."""
    from ray._private import worker

    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
    assert callable(worker.print_to_stdstream)


def test_no_cluster_is_one_sentence():
    with (
        pytest.raises(UnavailableError, match=r"no Ray cluster answers at 127\.0\.0\.1:1:"),
        open_executor(Execution(engine="ray", address="127.0.0.1:1")),
    ):
        pass


def test_worker_without_this_program_is_refused(configs, data, tmp_path, monkeypatch):
    """Its trials are not taken for bad ones."""
    monkeypatch.chdir(tmp_path)  # Ray tells workers of the driver's folder
    (tmp_path / "mlp").mkdir()
    (tmp_path / "mlp" / "__init__.py").write_text("")
    refusal = r"cannot import what it needs: .*No module named 'mlp\..*; install this program on"
    with (
        two_nodes(others=0, root=tmp_path) as cluster,
        pytest.raises(SystemLimitError, match=refusal),
    ):
        results_of(configs, data, over(cluster))


def test_worker_with_other_code_is_refused(executor, configs, data, monkeypatch):
    here = ray_cluster.versions()
    monkeypatch.setattr("mlp.training.ray_cluster.versions", lambda: {**here, "numpy": "1.0"})
    with pytest.raises(SystemLimitError, match=r"has numpy \d\S+, but here it is 1.0; install"):
        results_of(configs[:1], data, executor)


def test_network_that_does_not_fit_is_refused_as_in_this_process(executor, data):
    wide = with_settings(BASE, {"model.depth": 30, "model.widths": 65_000})
    for where in (executor, Execution()):
        with pytest.raises(SystemLimitError, match="must fit into"):
            results_of([with_settings(wide, {"training.sharpness_points": 0})], data, where)

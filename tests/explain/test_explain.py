"""`python -m mlp.explain`: a small real study, its answer on screen, in MLflow and as a page."""

import contextlib
import io
import re
import shutil
import sys
import time
import types
from pathlib import Path

import pytest

import mlp
from mlp.causes.repair import describe_repair
from mlp.config import Tracking
from mlp.curve import Verdict
from mlp.doctor import run_doctor
from mlp.errors import (
    DataError,
    MissingInputError,
    RecordError,
    SettingError,
    StoreError,
    UnavailableError,
)
from mlp.explain import reruns
from mlp.explain.__main__ import main
from mlp.explain.explain_study import explain_study
from mlp.explain.repair_run import repair_run
from mlp.explain.reruns import Retrainer
from mlp.settings import read_explain, read_sweep
from mlp.sweep.run_study import run_study
from mlp.terminal.compose import compose
from mlp.tracking import drain, spool
from mlp.tracking import store as tracking_store
from mlp.tracking.batch import BATCH_FILE, read_batch
from mlp.tracking.read import read_reruns, read_study
from mlp.tracking.store import open_store
from mlp.training.train_runs import train_runs
from support.sweeping import command, failing_table, plain, tracked
from support.world import SWINGING, copy, said, swinging

SMALL = {"interventions": 3, "seeds": 5, "timeout_s": 240.0}  # as in the world's explanation


@pytest.fixture(scope="module")
def studied(tmp_path_factory, world):
    """A study with its explanation: where it lies, what the command said, what it had found."""
    folder = copy(world.explained(), tmp_path_factory.mktemp("studied"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = explain_study(
            "small", read_explain({"explain": SMALL}), console=plain(io.StringIO())
        )
    done = said(world.explained())
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout, found


@pytest.fixture
def inside(studied, monkeypatch):
    folder, said, found = studied
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return said, found


def test_the_cause_is_named_on_the_screen_in_mlflow_and_on_the_page(inside):
    said, found = inside
    assert [cause.settings for cause in found.answer.causes] == [("optimizer.learning_rate",)]
    assert found.sentences[0].startswith("optimizer.learning_rate makes the loss oscillate: ")
    for sentence in found.sentences:
        assert sentence in said
        assert sentence in found.page
    store = open_store(Tracking())
    parent = store.client.get_run(found.study.run_id)
    assert parent.data.tags["mlp.causes"] == "optimizer.learning_rate"
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith(f"**{found.sentences[0]}**")
    assert "Best is [#" in note, "what the sweep noted is gone"
    assert [file.path for file in store.client.list_artifacts(found.study.run_id)] == [
        "losses.svg",
        "report.html",
        "study.json",
    ]


def test_reruns_are_kept_small_in_files_of_the_explain_run(inside):
    _, found = inside
    store = open_store(Tracking())
    explained = store.client.get_run(found.run_id)
    assert explained.info.status == "FINISHED"
    assert explained.data.tags["mlflow.parentRunId"] == found.study.run_id
    reruns = read_reruns(store, found.study.key)
    assert len(reruns) >= found.answer.n_trained > 20
    assert {run.config.training.steps for run in reruns} == {120}
    assert all(run.curve is not None and run.curve.step[-1] == 120 for run in reruns)
    files = [file for file in store.client.list_artifacts(found.run_id) if "reruns-" in file.path]
    assert sum(file.file_size for file in files) < 5_000 * len(reruns)
    below = store.client.search_runs(
        [store.experiment_id], f"tags.`mlflow.parentRunId` = '{found.run_id}'"
    )
    assert list(below) == []


def test_a_sweep_that_is_called_again_keeps_the_answer_and_ends_with_it(inside):
    """The study is complete here, so that nothing else is left to be done."""
    _, found = inside
    store = open_store(Tracking())
    assert run_study(read_sweep(compose("sweep", list(SWINGING)))).explanation is None
    note = store.client.get_run(found.study.run_id).data.tags["mlflow.note.content"]
    assert note.startswith(f"**{found.sentences[0]}**")
    assert note.count("Best is [#") == 1
    said = io.StringIO()
    overrides = [each for each in SWINGING if each != "study.explain=false"]
    end = run_study(read_sweep(compose("sweep", overrides)), console=plain(said))
    causes = [cause.settings for cause in end.explanation.answer.causes]
    assert causes == [("optimizer.learning_rate",)]
    shown = said.getvalue()
    assert shown.index("best is trial") < shown.index(end.explanation.sentences[0])
    assert shown.count("next:") == 1


def test_what_was_trained_is_not_trained_again(inside):
    _, found = inside
    store = open_store(Tracking())
    before = len(read_reruns(store, found.study.key))
    said = io.StringIO()
    again = explain_study(None, read_explain({"explain": SMALL}), console=plain(said))
    assert "reruns to train: none; " in said.getvalue()
    assert again.answer.causes == found.answer.causes
    assert again.run_id == found.run_id
    assert len(read_reruns(store, found.study.key)) == before


def test_a_study_that_is_not_at_its_end_is_explained_as_far_as_it_is(inside):
    said, found = inside
    part = "The study is not at its end: this is about the 15 runs that it had."
    assert part not in said
    store = open_store(Tracking())
    store.client.update_run(found.study.run_id, status="KILLED")
    assert read_study(store, "small").is_at_end  # all trials are there, however it ended
    [*_, last] = found.study.runs
    store.client.delete_run(last.run_id)
    again = io.StringIO()
    try:
        explain_study("small", read_explain({"explain": SMALL}), console=plain(again))
        note = store.client.get_run(found.study.run_id).data.tags["mlflow.note.content"]
    finally:
        store.client.restore_run(last.run_id)
        store.client.set_terminated(found.study.run_id)
        explain_study("small", read_explain({"explain": SMALL}))
    assert part in again.getvalue()
    assert part in note
    assert part not in store.client.get_run(found.study.run_id).data.tags["mlflow.note.content"]


def test_a_study_is_found_by_its_name_its_parent_and_its_experiment(inside):
    _, found = inside
    store = open_store(Tracking())
    by_name = read_study(store, "small")
    assert len(by_name.runs) == 16
    assert {run.judgement.verdict for run in by_name.runs} >= {Verdict.OSCILLATING}
    assert read_study(store, found.study.run_id) == by_name
    everything = read_study(store, "three-vs-seven")
    assert everything.run_id is None
    assert {run.run_id for run in everything.runs} == {run.run_id for run in by_name.runs}
    with pytest.raises(MissingInputError, match="did you mean 'small'"):
        read_study(store, "smal")
    with pytest.raises(RecordError, match="is not the parent of a study"):
        read_study(store, by_name.runs[0].run_id)


@pytest.fixture
def repaired(world, empty):
    """Where the command has repaired a run of the study, what it said, and the run's id."""
    folder = copy(world.mended(), empty)
    return folder, said(world.mended()), swinging(folder)


def test_a_run_that_oscillates_is_repaired_and_the_repaired_run_tracked(world, repaired):
    _, done, run_id = repaired
    assert (done.returncode, done.stderr) == (0, "")
    new_id = re.search(r"run ([0-9a-f]{32}), repaired from", done.stdout)[1]
    store = open_store(Tracking())
    reruns = read_reruns(store, f"run-{run_id}")
    more = io.StringIO()
    mended = repair_run(run_id, read_explain({"explain": {"seeds": 2}}), console=plain(more))
    assert mended is not None
    assert mended.cures[0].verdict in (Verdict.LEARNING, Verdict.CONVERGED)
    assert f"{len(reruns)} reruns of earlier calls are used" in more.getvalue()
    assert len(reruns) == mended.n_trained
    assert len(read_reruns(store, f"run-{run_id}")) == len(reruns)
    tags = store.client.get_run(new_id).data.tags
    assert tags["mlp.repair_of"] == run_id
    assert f"/runs/{new_id}?workflowType=machine_learning" in done.stdout
    assert tags["verdict"] == mended.cures[0].verdict.value
    first, *_ = describe_repair(mended)
    original = store.client.get_run(run_id).data.tags
    assert original["mlflow.note.content"].startswith(f"**{first}**\n\n")
    assert "bit for bit" in original["mlflow.note.content"], "the run's own note is gone"
    assert original["mlp.causes"] == "optimizer.learning_rate"
    offer = (
        "With optimizer.guard=rollback it learns, and with 2 of 2 further seeds, without a search"
    )
    assert f"{offer}; the cause stays optimizer.learning_rate." in done.stdout
    before = open_store(Tracking(uri=f"sqlite:///{world.explained()}/mlflow.db"))
    assert read_study(store, "small").runs == read_study(before, "small").runs


def test_a_run_is_repaired_once_however_often_it_is_asked_for(repaired):
    _, done, run_id = repaired
    more = io.StringIO()
    repair_run(run_id, read_explain({"explain": {"seeds": 2, "apply": True}}), console=plain(more))
    new_ids = re.findall(r"run ([0-9a-f]{32}), repaired from", done.stdout + more.getvalue())
    assert len(new_ids) == 2
    assert len(set(new_ids)) == 1


@pytest.mark.system
def test_a_search_that_is_stopped_goes_on_where_it_was(inside, monkeypatch):
    _, found = inside
    swinging = [r for r in found.study.runs if r.judgement.verdict is Verdict.OSCILLATING][-1]
    key = f"run-{swinging.run_id}"
    store = open_store(Tracking())
    said = io.StringIO()
    train, n_calls = Retrainer.__call__, []

    def stopped(self, configs):
        n_calls.append(len(configs))
        if len(n_calls) == 2:
            raise KeyboardInterrupt
        return train(self, configs)

    config = read_explain({"explain": {"seeds": 2}})
    with monkeypatch.context() as patched:
        patched.setattr(Retrainer, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            repair_run(swinging.run_id, config, console=plain(said))
    [n_kept] = re.findall(r"(\d+) reruns are kept; this goes on from there: ", said.getvalue())
    assert (n_calls[0], int(n_kept)) == (8, 9)  # the run itself shows what happened in it
    assert _n_safe(store, key) == int(n_kept)
    assert [run.info.status for run in _explained(store, key)] == ["KILLED"]
    mended = repair_run(swinging.run_id, config, console=plain(said))
    assert f"{n_kept} reruns of earlier calls are used" in said.getvalue()
    assert mended.is_complete
    searched = [run for run in read_reruns(store, key) if run.config.optimizer.guard == "none"]
    assert len(searched) == mended.n_trained  # the guard is an offer beside the search
    assert f"/runs/{swinging.run_id}?workflowType=machine_learning" in said.getvalue()
    assert [run.info.status for run in _explained(store, key)] == ["FINISHED"]

    def refuse(_execution):
        raise UnavailableError("no GPU")

    monkeypatch.setattr("mlp.training.train_runs.check_engine", refuse)
    for explain, what in ((repair_run, swinging.run_id), (explain_study, found.study.name)):
        with pytest.raises(UnavailableError):
            explain(what, config, console=plain(said))
    assert {run.info.status for run in _explained(store, key)} == {"FINISHED"}
    assert {run.info.status for run in _explained(store, found.study.key)} == {"FINISHED"}


def test_a_time_limit_is_overrun_by_one_population_at_most(inside, monkeypatch):
    """Nothing that is not verified is offered, applied, or called a cause."""
    _, found = inside
    swinging = [r for r in found.study.runs if r.judgement.verdict is Verdict.OSCILLATING][1]
    hours = iter(range(10**6))
    said = io.StringIO()
    limited = {"apply": True, "timeout_s": 3600.0}
    with monkeypatch.context() as patched:
        clock = types.SimpleNamespace(monotonic=lambda: 1800.0 * next(hours), time_ns=time.time_ns)
        patched.setattr("mlp.explain.repair_run.time", clock)
        cut = repair_run(swinging.run_id, read_explain({"explain": limited}), console=plain(said))
    assert cut.n_trained == 8
    assert not cut.is_complete
    assert f"the time was up; this goes on: python -m mlp.explain {swinging.run_id}" in (
        said.getvalue()
    )
    assert "explain.apply=true" not in said.getvalue()
    assert "repaired from" not in said.getvalue()
    tags = open_store(Tracking()).client.get_run(swinging.run_id).data.tags
    assert tags["mlp.causes"] == "not settled"


def _n_safe(store, key) -> int:
    """Reruns that are in MLflow, or wait for it."""
    return len(read_reruns(store, key)) + _n_waiting()


def _n_waiting() -> int:
    """Reruns that wait for MLflow."""
    files = (place / BATCH_FILE for place in spool.waiting_in(spool.folder_of_runs()).values())
    return sum(len(read_batch(file.read_text()).reruns) for file in files if file.exists())


def _explained(store, key):
    return store.client.search_runs([store.experiment_id], f"tags.`mlp.key` = '{key}/explain'")


def test_a_quiet_run_has_nothing_to_stop(inside):
    _, found = inside
    learning = [r for r in found.study.runs if r.judgement.verdict is Verdict.LEARNING]
    quiet = next(run for run in learning if not run.judgement.spiked)
    said = io.StringIO()
    assert repair_run(quiet.run_id, read_explain({}), console=plain(said)) is None
    assert mlp.repair_run(quiet.run_id, {"explain.seeds": 2, "execution.threads": 1}) is None
    elsewhere = {"tracking.experiment": Tracking().experiment}
    assert mlp.repair_run(quiet.run_id, elsewhere) is None
    with pytest.raises(SettingError, match=r"unknown setting 'explain.seed'; did you mean"):
        mlp.repair_run(quiet.run_id, {"seed": 2})
    with pytest.raises(SettingError, match=r"explain.seeds is set twice"):
        mlp.repair_run(quiet.run_id, {"seeds": 2, "explain.seeds": 3})
    assert "this run ends well: there is nothing to stop" in said.getvalue()


def test_other_data_than_the_study_had_are_refused(inside, monkeypatch):
    store = open_store(Tracking())
    study = read_study(store, "small")
    for run in study.runs:
        store.client.set_tag(run.run_id, "mlp.data_digest", "0" * 64)
    try:
        with pytest.raises(DataError, match="other data than digits is here"):
            explain_study("small", read_explain({}), console=plain(io.StringIO()))
    finally:
        for run in study.runs:
            store.client.set_tag(run.run_id, "mlp.data_digest", run.data_digest)


def test_the_page_is_one_small_file_with_the_answer_first_and_every_run(inside):
    _, found = inside
    page = found.page
    assert len(page.encode()) < 1_500_000
    assert page.index("makes the loss oscillate") < page.index("<section")
    assert page.count('<polyline class="line"') >= 2 * len(found.content.pairs) > 0
    for run in found.study.runs:
        assert page.count(run.run_id) >= 2  # on the map and in the table


def test_the_command_says_what_is_wrong_in_one_sentence(here, monkeypatch, capsys):
    for arguments, code, words in (
        (["optimizer.learning_rate=1"], 2, "read from the runs that are explained"),
        (["explain.seeds=0"], 2, "explain.seeds must be at least 1"),
        (["explain.seed=3"], 2, "did you mean 'explain.seeds'?"),
        (["nothing"], 66, "there is no study and no experiment nothing"),
        (["0" * 32], 66, "there is no run"),
        ([], 66, "there is no study in"),
    ):
        monkeypatch.setattr(sys, "argv", ["explain", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr().err
        assert caught.value.code == code, said
        assert words in said
        assert said.count("\n") == 1


def test_without_a_store_there_is_no_study_and_none_is_made(tmp_path):
    done = command("explain", cwd=tmp_path)
    assert done.returncode == 66
    assert "python -m mlp.sweep makes one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_its_settings_and_no_other(tmp_path):
    done = command("explain", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "explain.timeout_s" in done.stdout
    assert "\n  optimizer.learning_rate " not in done.stdout


def test_what_is_trained_when_a_person_stops_it_is_kept(inside, monkeypatch):
    _, found = inside
    store = open_store(Tracking())
    before = _n_safe(store, found.study.key)
    really_train, calls = reruns.train_runs, []

    def train(configs, *args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(configs))
        return really_train(configs, *args, **kwargs)

    monkeypatch.setattr(reruns, "train_runs", train)
    monkeypatch.setattr("mlp.explain.explain_study.read_reruns", lambda *_: ())
    for most in ("_POPULATION", "_FEWEST"):  # an odd number, which no earlier file has
        monkeypatch.setattr(f"mlp.explain.explain_study.{most}", 9)
    said = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        explain_study(None, read_explain({"explain": SMALL}), console=plain(said))
    assert "likeliest" in said.getvalue(), "what is known is not said"
    assert _n_safe(store, found.study.key) - before == calls[0] > 0
    assert f"{calls[0]} reruns are kept; this goes on from there: " in said.getvalue()
    assert store.client.get_run(found.run_id).info.status == "KILLED"


@pytest.fixture
def hasty(monkeypatch):
    """Stores that fail are not waited for, so that these tests take seconds."""
    monkeypatch.setattr(drain, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.5)


def going_away(monkeypatch, outage, table):
    """Lets the store fail from the first training on, until the stack of the outage is closed.

    Args:
        table: that takes no rows then; nor does the store take files of reruns.

    Returns:
        How many reruns each call has trained.
    """
    really_train, sizes = reruns.train_runs, []

    def refuse(store, *_):
        raise StoreError(f"the tracking store {store.uri} failed: the disk has had enough")

    def train(configs, *args, **kwargs):
        if not sizes:
            outage.enter_context(failing_table(Path(), table))
            outage.enter_context(pytest.MonkeyPatch.context()).setattr(
                tracking_store, "log_text", refuse
            )
        sizes.append(len(configs))
        return really_train(configs, *args, **kwargs)

    monkeypatch.setattr(reruns, "train_runs", train)
    return sizes


@pytest.mark.system
def test_a_store_that_goes_away_gets_the_reruns_of_a_study_later(inside, hasty, monkeypatch):
    _, found = inside
    store = open_store(Tracking())
    before = _n_safe(store, found.study.key)
    more = read_explain({"explain": SMALL})
    said = io.StringIO()
    with contextlib.ExitStack() as outage:
        outage.enter_context(pytest.MonkeyPatch.context()).setattr(
            "mlp.explain.explain_study.read_reruns", lambda *_: ()
        )
        sizes = going_away(monkeypatch, outage, "runs")
        with pytest.raises(StoreError) as caught:
            explain_study(None, more, console=plain(said))
    assert "the disk has had enough" in str(caught.value)
    assert caught.value.exit_code == 74
    assert "optimizer.learning_rate makes the loss oscillate: " in " ".join(said.getvalue().split())
    assert "some reruns are not in MLflow yet; they are kept" in said.getvalue()
    assert len(read_reruns(store, found.study.key)) == before
    n_kept = _n_waiting()
    assert n_kept == sum(sizes) > 0
    [foreign, *_] = spool.waiting_in(spool.folder_of_runs()).values()
    foreign = shutil.copytree(foreign, spool.new_place())
    (foreign / BATCH_FILE).write_bytes(b"damaged, and nobody knows whose it is")
    sizes.clear()
    monkeypatch.setattr(reruns, "train_runs", lambda configs, *_, **__: sizes.append(configs))
    said = io.StringIO()
    again = explain_study(None, more, console=plain(said))
    assert sizes == []
    assert "reruns to train: none; " in said.getvalue()
    assert [cause.settings for cause in again.answer.causes] == [("optimizer.learning_rate",)]
    assert len(read_reruns(store, found.study.key)) >= before  # the same reruns are the same file
    kept = store.client.get_run(again.run_id)
    assert kept.info.status == "FINISHED"
    shutil.rmtree(foreign)
    spool.leave(spool.folder_of_runs())
    assert not spool.folder_of_runs().exists()


@pytest.mark.system
def test_a_store_that_goes_away_gets_the_reruns_of_a_run_later(inside, hasty, monkeypatch, capsys):
    """Not even the answer can be recorded; it is on the screen."""
    _, found = inside
    swinging = [r for r in found.study.runs if r.judgement.verdict is Verdict.OSCILLATING][2]
    store = open_store(Tracking())
    monkeypatch.setattr(sys, "argv", ["explain", swinging.run_id, "explain.seeds=2"])
    with contextlib.ExitStack() as outage:
        sizes = going_away(monkeypatch, outage, "tags")
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 74
    said = capsys.readouterr()
    assert re.fullmatch(r"error: the tracking store sqlite:\S+ failed: .*\n", said.err)
    assert re.search(r"optimizer\.learning_rate", said.out)
    assert "they are kept" in said.out
    n_kept = _n_waiting()
    assert n_kept == sum(sizes) > 0
    assert read_reruns(store, f"run-{swinging.run_id}") == ()
    trained = []

    def counting(configs, *args, **kwargs):
        trained.append(len(configs))
        return train_runs(configs, *args, **kwargs)

    monkeypatch.setattr(reruns, "train_runs", counting)
    again = repair_run(swinging.run_id, read_explain({"explain": {"seeds": 2}}))
    assert trained == [1]  # the run itself, which shows what happened in it
    assert again.is_complete
    assert len(read_reruns(store, f"run-{swinging.run_id}")) == n_kept == again.n_trained
    assert not spool.folder_of_runs().exists()


def test_a_repaired_run_that_the_store_does_not_take_is_kept(repaired, hasty, monkeypatch):
    _, done, run_id = repaired
    gone = re.search(r"run ([0-9a-f]{32}), repaired from", done.stdout)[1]
    store = open_store(Tracking())
    weights = store.client.get_run(gone).data.tags["mlp.weights_digest"]
    store.client.delete_run(gone)
    config = read_explain({"explain": {"seeds": 2, "apply": True}})
    with (
        failing_table(Path(), "runs"),
        pytest.raises(
            StoreError, match=r"the run is kept in .*runs\.spool.*: python -m mlp\.doctor"
        ),
    ):
        repair_run(run_id, config)
    assert len(spool.waiting_in(spool.folder_of_runs())) == 1
    assert run_doctor(read_sweep({"data": {"name": "digits"}}), plain(io.StringIO()), fix=True)
    assert not spool.folder_of_runs().exists()
    [new] = (run for run in tracked(Path()) if run.tags.get("mlp.repair_of") == run_id)
    assert new.status == "FINISHED"
    assert new.tags["mlp.weights_digest"] == weights


def test_an_answer_counts_the_reruns_that_it_rests_on_and_no_others(inside):
    _, found = inside
    fewer = {**SMALL, "interventions": 1}
    less = explain_study(None, read_explain({"explain": fewer}), console=plain(io.StringIO()))
    assert 0 < less.answer.n_trained < found.answer.n_trained


def test_a_study_whose_runs_stall_is_asked_what_stalls_them(here):
    space = {"initialization.scheme": ["zeros", "lecun_normal"], "training.seed": [0, 1, 2, 3]}
    settings = {"study.space": space, "study.sampler": "grid", "study.n_trials": 8}
    settings |= {"model.depth": 3, "model.widths": 6, "training.steps": 150}
    end = run_study("smoke", settings | {"optimizer.learning_rate": 2.0})
    assert end.explanation is None  # none oscillates, and half of them learn
    found = explain_study(end.name, {"timeout_s": 60.0})
    assert found.answer.asked is Verdict.STALLED
    assert found.sentences[0].startswith("initialization.scheme makes the loss stall: ")
    assert "<h1>Why does the loss stall?</h1>" in found.page
    assert "stalled and repaired" in found.page.lower()
    assert f"explain {end.name} explain.interventions=16" in found.page
    assert explain_study(end.name, {"verdict": "diverged"}).sentences == (
        "None of the 8 runs diverges, so there is nothing to stop.",
    )
    [run] = [run for run in tracked(here) if run.tags.get("mlp.trial") == "0"]
    with pytest.raises(SettingError, match=r"explain\.verdict is asked of a study"):
        repair_run(run.run_id, {"verdict": "stalled"})

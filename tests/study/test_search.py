"""The search on a real store: asked again anywhere, it gives the same trials."""

import dataclasses
import functools
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mlp.curve import Verdict
from mlp.errors import BusyError, SettingError, StoreError
from mlp.settings import read_sweep, with_settings
from mlp.study import search
from mlp.study.identity import identity
from mlp.study.space import Range, parameters
from mlp.study.storage import open_storage
from mlp.terminal.compose import compose

RATE, MEAN_OR_SUM = "optimizer.learning_rate", "gradient.normalization"
DEPTH, WIDTHS = "model.depth", "model.widths"
SPACE = {
    DEPTH: {"low": 1, "high": 3},
    WIDTHS: {"low": 2, "high": 32, "log": True, "each_layer": True},
    MEAN_OR_SUM: ["sum", "mean"],
    RATE: {
        "by": MEAN_OR_SUM,
        "sum": {"low": 1e-6, "high": 1e-2, "log": True},
        "mean": {"low": 0.01, "high": 30.0, "log": True},
    },
    "training.batch_size": [None, 32],
}
GRID = {
    DEPTH: [1, 2, 3],
    MEAN_OR_SUM: ["sum", "mean"],
    RATE: {"by": MEAN_OR_SUM, "sum": [1e-5, 1e-3], "mean": [0.1, 1.0, 10.0]},
    WIDTHS: {"by": DEPTH, 1: [[2], [8]], 2: [[4, 4]], 3: [[2, 2, 2], 5]},
}
SAMPLERS = ["tpe", "random", "qmc", "grid"]
N_TRIALS = 14  # TPE leaves chance after ten, and the last generation is not full
POINT = {DEPTH: 2, WIDTHS: [3, 3], MEAN_OR_SUM: "sum", RATE: 1e-3}


def sweep(**study):
    sampler = study.get("sampler", "tpe")
    space = GRID if sampler == "grid" else SPACE
    enqueue = [{**POINT, WIDTHS: [4, 4]} if sampler == "grid" else POINT]
    data = {"name": "digits"}
    return read_sweep(
        {"data": data, "study": {"space": space, "enqueue": enqueue, "generation": 4, **study}}
    )


def url_of(folder, name="optuna.db"):
    return f"sqlite:///{folder / name}"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store with its tables and no study: making one takes a second, a copy does not."""
    folder = tmp_path_factory.mktemp("store")
    open_storage(url_of(folder))
    return folder / "optuna.db"


@pytest.fixture
def folder(tmp_path, empty_store):
    (tmp_path / "optuna.db").write_bytes(empty_store.read_bytes())
    return tmp_path


def opened(folder, config):
    """As a new process would, on a storage of its own."""
    storage = open_storage(url_of(folder))
    return search.open_search(storage, config, identity(config, "digits", "d" * 64))


def outcome_of(trial):
    """Some pure function of a trial's config: a fifth diverge, many are equal."""
    run = trial.config
    rate = run.optimizer.learning_rate * (1000 if run.gradient.normalization == "sum" else 1)
    if rate > 6:
        return {"value": None, "facts": {"verdict": "diverged", "diverged_at": 3.0}}
    value = round(1 - abs(math.log10(rate)) / 5 - 0.01 * sum(run.model.layer_widths), 2)
    return {"value": value, "facts": {"verdict": "learning", "final_loss": value}}


def told(study, count=None, outcome_of=outcome_of):
    """Asks and tells to the end, or until so many trials are stored."""
    while trials := search.ask(study):
        for trial in trials:
            if count is not None and len(study.study.trials) >= count:
                return study
            search.tell(study, trial, **outcome_of(trial))
    return study


def stored(study):
    return [
        (t.number, t.state, t.params, t.distributions, t.values, t.user_attrs)
        for t in study.study.trials
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, empty_store):
    """Sampler -> what a study of some trials stores that nobody interrupted."""

    @functools.cache
    def made(sampler):
        folder = tmp_path_factory.mktemp(sampler)
        (folder / "optuna.db").write_bytes(empty_store.read_bytes())
        study = told(opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS)))
        return folder, stored(study)

    return made


# -- stopped and asked again


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_was_stopped_anywhere_ends_as_one_that_was_not(
    sampler, folder, uninterrupted, capfd
):
    """The later trials come out the same every time, and nothing is said.

    Only tpe looks at earlier trials, after the tenth: for the others a stop is enough.
    """
    _, expected = uninterrupted(sampler)
    assert len(expected) == N_TRIALS
    for count in (1, 6, 11, 13, N_TRIALS) if sampler == "tpe" else (6, N_TRIALS):
        study = told(opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS)), count)
        assert stored(study) == expected[:count]
    assert search.ask(opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS))) == []
    assert capfd.readouterr() == ("", "")


def test_a_trial_that_another_sweep_has_stored_is_not_stored_again(folder):
    first, second = opened(folder, sweep(n_trials=4)), opened(folder, sweep(n_trials=4))
    [trial, *_] = search.ask(second)
    told(first)
    with pytest.raises(BusyError, match="another sweep is at work"):
        search.tell(second, trial, **outcome_of(trial))
    assert len(second.study.trials) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_asking_changes_nothing(sampler, folder, uninterrupted):
    study = told(opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS)), 6)
    before = stored(study)
    first, second = search.ask(study), search.ask(study)
    assert first == second
    assert [trial.number for trial in first] == [6, 7]
    assert stored(study) == before == uninterrupted(sampler)[1][:6]


@pytest.mark.parametrize(("sampler", "shorter"), [("tpe", 6), ("qmc", 6)])
def test_a_longer_study_begins_with_the_shorter_one(sampler, shorter, folder, uninterrupted):
    study = told(opened(folder, sweep(sampler=sampler, n_trials=shorter)))
    assert search.ask(study) == []
    assert stored(study) == uninterrupted(sampler)[1][:shorter]
    study = told(opened(folder, sweep(sampler=sampler, n_trials=12)))
    assert stored(study) == uninterrupted(sampler)[1][:12]
    assert not study.is_new


def test_a_study_cut_shorter_than_it_is_already_is_complete(folder):
    told(opened(folder, sweep(n_trials=6)))
    study = opened(folder, sweep(n_trials=3))
    assert (search.ask(study), search.n_planned(study)) == ([], 3)


def test_no_trial_of_a_new_process_depends_on_this_one(uninterrupted):
    """Hash seeds and global random states differ from process to process."""
    folder, expected = uninterrupted("tpe")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json, pathlib, test_search as t\n"
        "study = t.opened(pathlib.Path(sys.argv[2]), t.sweep(n_trials=18))\n"
        "print(json.dumps([[x.number, dict(x.params)] for x in t.search.ask(study)]))"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(here), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1]), "PYTHONHASHSEED": "7"}
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    again = search.ask(opened(folder, sweep(n_trials=18)))
    assert json.loads(answer.stdout) == [[t.number, dict(t.params)] for t in again]
    assert [t.number for t in again] == [14, 15]
    assert len(expected) == N_TRIALS


def test_a_grid_ends_with_its_last_point(folder):
    study = told(opened(folder, sweep(sampler="grid", n_trials=100, generation=25)))
    assert search.n_planned(study) == len(search.rows(study)) == 5 * (2 + 1 + 2)
    assert len({json.dumps(dict(row.params)) for row in search.rows(study)}) == 25


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "grid"])
def test_seeds_differ(sampler, folder):
    asked = []
    for seed in (0, 1):
        study = opened(folder, sweep(sampler=sampler, seed=seed, enqueue=[]))
        asked.append([trial.params for trial in search.ask(study)])
    assert asked[0] != asked[1]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_the_trials_of_a_generation_differ(sampler, folder):
    study = opened(folder, sweep(sampler=sampler, generation=16, n_trials=16))
    asked = [json.dumps(dict(trial.params)) for trial in search.ask(study)]
    assert len(set(asked)) == 16


# -- what is stored


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_stored_study_has_only_finished_trials_in_their_order(sampler, uninterrupted):
    _, trials = uninterrupted(sampler)
    assert [number for number, *_ in trials] == list(range(len(trials)))
    assert {state for _, state, *_ in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for _, state, _, _, values, attributes in trials:
        assert (state is TrialState.PRUNED) == (attributes["verdict"] == "diverged")
        assert (values is None) == (state is TrialState.PRUNED)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_stored_trial_can_be_made_again(sampler, uninterrupted):
    folder, trials = uninterrupted(sampler)
    study = opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS))
    rows = search.rows(study)
    assert [row.number for row in rows] == [number for number, *_ in trials]
    for row in rows:
        trial = search.trial_of(study, row)
        assert (trial.number, outcome_of(trial)["value"]) == (row.number, row.value)
        assert isinstance(trial.config.model.depth, int)


def test_rows_are_in_the_words_of_the_space(uninterrupted):
    folder, _ = uninterrupted("grid")
    rows = search.rows(opened(folder, sweep(sampler="grid", n_trials=N_TRIALS)))
    widths = {json.dumps(v) for row in rows for k, v in row.params.items() if k.startswith(WIDTHS)}
    assert widths == {"[2]", "[8]", "[4, 4]", "[2, 2, 2]", "5"}
    assert all(isinstance(row.params[DEPTH], int) for row in rows)
    assert {row.verdict for row in rows} == {Verdict.LEARNING, Verdict.DIVERGED}
    assert all(set(row.numbers) <= {"final_loss", "diverged_at"} for row in rows)


def test_names_as_optuna_sees_them(uninterrupted):
    _, trials = uninterrupted("tpe")
    for _, _, params, *_ in trials:
        branch = params[MEAN_OR_SUM]
        assert set(params) == {
            DEPTH,
            MEAN_OR_SUM,
            f"{RATE}[{branch}]",
            "training.batch_size",
            *(f"{WIDTHS}[{layer}]" for layer in range(1, params[DEPTH] + 1)),
        }


def test_parameters_lie_in_their_domains(uninterrupted):
    for sampler in ("tpe", "random", "qmc"):
        folder, _ = uninterrupted(sampler)
        study = opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS))
        domains = parameters(study.space, study.base)
        for row in search.rows(study):
            assert all(domains[name].contains(value) for name, value in row.params.items())


def test_tpe_avoids_what_diverged(folder):
    """Half of the logarithmic range diverges; what is asked later keeps away from it."""

    def outcome(trial):
        rate = trial.config.optimizer.learning_rate
        if rate > 1:
            return {"value": None, "facts": {"verdict": "diverged"}}
        return {"value": -abs(math.log10(rate) + 2), "facts": {"verdict": "learning"}}

    space = {RATE: {"low": 1e-4, "high": 1e4, "log": True}}
    found = {}
    for sampler in ("random", "tpe"):
        config = sweep(sampler=sampler, space=space, enqueue=[], n_trials=24, generation=2)
        rows = search.rows(told(opened(folder, config), outcome_of=outcome))
        found[sampler] = sum(row.verdict is Verdict.DIVERGED for row in rows[12:])
    assert found["random"] >= 4
    assert found["tpe"] < found["random"] / 2


@pytest.mark.parametrize("objective", ["training_loss", "oscillation"])
def test_the_best_is_the_earliest_of_equals(objective, folder):
    study = opened(folder, sweep(objective=objective, n_trials=8))
    values = [None, 0.5, 0.9, 0.1, 0.9, 0.1, None, 0.5]
    verdicts = ["diverged" if value is None else "learning" for value in values]
    while trials := search.ask(study):
        for trial in trials:
            attributes = {"verdict": verdicts[trial.number]}
            search.tell(study, trial, value=values[trial.number], facts=attributes)
    best = search.best_of(search.rows(study), study.objective)
    assert best is not None
    assert best.number == (3 if objective == "training_loss" else 2)
    assert study.study.best_value == best.value


def test_there_is_no_best_where_all_diverged(folder):
    study = opened(folder, sweep(n_trials=4))
    for trial in search.ask(study):
        search.tell(study, trial, value=None, facts={"verdict": "diverged"})
    assert len(search.rows(study)) == 4
    assert search.best_of(search.rows(study), study.objective) is None


def test_numbers_of_a_trial_are_an_attribute_each_or_in_one(folder):
    study = opened(folder, sweep(n_trials=2))
    [one, other, *_] = search.ask(study)
    earlier = {"verdict": "learning", "final_loss": 0.5, "tail_loss": 0.6}  # as before
    search.tell(study, one, value=0.5, facts=earlier)
    now = {"verdict": "learning", "final_loss": 0.5, search.NUMBERS: {"tail_loss": 0.6}}
    search.tell(study, other, value=0.5, facts=now)
    found = [row.numbers for row in search.rows(study)]
    assert found == [{"final_loss": 0.5, "tail_loss": 0.6}] * 2


def test_a_constant_objective_ends(folder):
    study = opened(folder, sweep(n_trials=8))
    while trials := search.ask(study):
        for trial in trials:
            search.tell(study, trial, value=0.5, facts={"verdict": "stalled"})
    best = search.best_of(search.rows(study), study.objective)
    assert best is not None
    assert best.number == 0
    with pytest.warns(UserWarning, match="importances will be equal"):
        importances = optuna.importance.get_param_importances(study.study, params=[DEPTH])
    assert all(math.isfinite(value) for value in importances.values())


def test_looks_at_the_test_part_are_counted(folder):
    study = told(opened(folder, sweep(n_trials=4)))
    assert search.test_looks(study) == []
    search.add_test_look(study, 2, 0.5)
    search.add_test_look(study, 3, 0.75)
    assert search.test_looks(opened(folder, sweep(n_trials=8))) == [
        {"trial": 2, "n_trials": 4, "test_accuracy": 0.5},
        {"trial": 3, "n_trials": 4, "test_accuracy": 0.75},
    ]


# -- enqueued


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_enqueued_trial_is_the_first(sampler, uninterrupted):
    folder, _ = uninterrupted(sampler)
    study = opened(folder, sweep(sampler=sampler, n_trials=N_TRIALS))
    configs = [search.trial_of(study, row).config for row in search.rows(study)]
    point = sweep(sampler=sampler).study.enqueue[0]
    assert configs[0] == with_settings(study.base, point)
    assert configs.count(configs[0]) == 1


def test_the_default_study_begins_with_the_questions_own_settings(folder):
    config = read_sweep(compose("sweep", ["data=digits"]))
    first = search.ask(opened(folder, config))[0].config
    question = read_sweep(
        compose(
            "sweep",
            [
                "data=digits",
                "model=question",
                "model.widths=[3,3]",
                "gradient=question",
                "optimizer.learning_rate=0.005",
                "initialization=lecun_normal",
            ],
        )
    )
    assert first == question.base
    assert first.model.layer_widths == (3, 3)
    assert first.gradient.derivative == "question"


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_what_an_enqueued_point_leaves_open_is_drawn(sampler, folder):
    points = [{DEPTH: 3}, {"training.steps": 7, DEPTH: 1}, {}]
    study = opened(folder, sweep(sampler=sampler, enqueue=points))
    first, second, third, fourth = search.ask(study)
    assert first.config.model.depth == 3
    assert (second.config.model.depth, second.config.training.steps) == (1, 7)
    assert {trial.config.training.steps for trial in (first, third, fourth)} == {500}


def test_more_points_may_be_enqueued_than_a_generation_or_the_study_has(folder):
    points = [{DEPTH: 1}, {DEPTH: 2}, {DEPTH: 3}, {DEPTH: 2}, {DEPTH: 1}, {DEPTH: 3}]
    study = told(opened(folder, sweep(enqueue=points, n_trials=5)))
    assert [row.params[DEPTH] for row in search.rows(study)] == [1, 2, 3, 2, 1]


# -- identity


def test_the_same_command_opens_the_same_study(folder):
    first, second = opened(folder, sweep()), opened(folder, sweep(n_trials=7))
    assert (first.is_new, second.is_new) == (True, False)
    assert first.name == second.name


def test_an_explicit_name_with_another_identity_is_refused(folder):
    opened(folder, sweep(name="mine"))
    assert not opened(folder, sweep(name="mine", n_trials=7)).is_new
    with pytest.raises(SettingError) as caught:
        opened(folder, sweep(name="mine", seed=3))
    assert str(caught.value) == (
        "study mine exists with other settings (study.seed 0 -> 3); choose another study.name"
    )


def test_a_study_of_another_program_is_not_touched(folder):
    storage = open_storage(url_of(folder))
    optuna.create_study(storage=storage, study_name="theirs").set_user_attr("theirs", 1)
    with pytest.raises(SettingError, match="study theirs is of another program"):
        opened(folder, sweep(name="theirs"))
    opened(folder, sweep())
    assert search.related_study(storage, sweep(seed=3), identity(sweep(seed=3), "", "")) is not None


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_study_whose_maker_was_killed_at_once_is_gone_on_with(name, folder):
    config = sweep(name=name)
    study_name = name or opened(folder, config).name
    storage = open_storage(url_of(folder))
    if name is None:
        optuna.delete_study(study_name=study_name, storage=storage)
    optuna.create_study(storage=storage, study_name=study_name, direction="maximize")
    assert opened(folder, config).name == study_name
    assert not opened(folder, config).is_new
    if name is not None:
        with pytest.raises(SettingError, match="exists with other settings"):
            opened(folder, sweep(name=name, seed=3))


def test_the_newest_other_study_of_the_file_is_named(folder):
    storage = open_storage(url_of(folder))
    new = sweep(seed=3)
    what = identity(new, "digits", "d" * 64)
    assert search.related_study(storage, new, what) is None
    opened(folder, sweep(seed=1))
    name = opened(folder, sweep(seed=2)).name
    opened(folder, sweep(file="other"))
    opened(folder, new)
    assert search.related_study(storage, new, what) == (name, ["study.seed 2 -> 3"])


def test_data_that_were_resolved_are_known_again(folder):
    storage = open_storage(url_of(folder))
    auto = read_sweep({"study": {"space": {RATE: [0.1]}}})
    assert search.known_data(storage, auto) is None
    search.open_search(storage, auto, identity(auto, "digits", "d" * 64))
    assert search.known_data(storage, auto) == "digits"
    search.open_search(storage, auto, identity(auto, "mnist", "e" * 64))
    assert search.known_data(storage, auto) == "mnist"
    longer = dataclasses.replace(auto, study=dataclasses.replace(auto.study, n_trials=7))
    assert search.known_data(storage, longer) == "mnist"
    other = dataclasses.replace(auto, study=dataclasses.replace(auto.study, seed=7))
    assert search.known_data(storage, other) is None


# -- pruned


def test_nobody_is_pruned_before_a_tenth_of_the_steps_or_at_the_last_one():
    curve = {9: 0.5, 10: 0.5, 11: 0.6, 99: 0.8, 100: 0.9}
    assert search.thresholds([curve] * 4, 50, steps=100) == {}
    assert search.thresholds([curve] * 5, 50, steps=100) == {11: 0.6, 99: 0.8}


# -- Optuna's own tools


def test_optunas_tools_read_the_stored_study(uninterrupted):
    folder, trials = uninterrupted("tpe")
    [summary] = optuna.get_all_study_summaries(url_of(folder))
    study = optuna.load_study(study_name=summary.study_name, storage=url_of(folder))
    frame = study.trials_dataframe()
    assert len(frame) == len(trials)
    assert f"params_{RATE}[mean]" in frame.columns
    common = [DEPTH, MEAN_OR_SUM]
    assert set(optuna.importance.get_param_importances(study, params=common)) == set(common)
    assert set(optuna.importance.get_param_importances(study)) <= set().union(
        *(params for _, _, params, *_ in trials)
    )


def test_optunas_plots_draw_the_stored_study(uninterrupted):
    pytest.importorskip("plotly")
    folder, _ = uninterrupted("tpe")
    [summary] = optuna.get_all_study_summaries(url_of(folder))
    study = optuna.load_study(study_name=summary.study_name, storage=url_of(folder))
    drawn = optuna.visualization.plot_parallel_coordinate(study, params=[DEPTH, MEAN_OR_SUM])
    assert drawn.data


# -- stores


def refusal(url, error=StoreError):
    with pytest.raises(error) as caught:
        open_storage(url)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def test_a_new_store_is_made_with_its_folder_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_storage("sqlite:///not/yet/a b [c].db")
    assert [file.name for file in (tmp_path / "not/yet").iterdir()] == ["a b [c].db"]


@pytest.mark.parametrize(
    "url", ["optuna.db", "foo://bar", "", "sqlite:/x.db", "sqlite://", "sqlite:///:memory:"]
)
def test_an_address_of_an_unknown_kind_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(url, SettingError)
    assert message.startswith("study.storage must be an address such as sqlite:///optuna.db")
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_not_shown():
    assert "secret" not in refusal("foo://ann:secret@host/optuna", SettingError)


def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path):
    (tmp_path / "optuna.db").write_text("my diary, " * 100)
    message = refusal(url_of(tmp_path))
    assert "is not an SQLite database" in message
    assert "study.storage" in message
    assert (tmp_path / "optuna.db").read_text().startswith("my diary")


def test_a_store_that_was_cut_off_is_refused(folder):
    whole = (folder / "optuna.db").read_bytes()
    (folder / "optuna.db").write_bytes(whole[: len(whole) // 2])
    refusal(url_of(folder))


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "optuna.db").mkdir()
    assert "is a folder" in refusal(url_of(tmp_path))


def test_a_store_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "is no folder" in refusal(f"sqlite:///{tmp_path}/file/optuna.db")


def test_a_store_of_another_version_is_refused(folder):
    with sqlite3.connect(folder / "optuna.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    connection.close()
    assert refusal(url_of(folder)).startswith(f"cannot use sqlite:///{folder}/optuna.db: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    assert "cannot be written" in refusal(url_of(place))


def test_a_file_of_another_database_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    connection.close()
    open_storage(url_of(tmp_path))
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("SELECT * FROM diary")
    connection.close()


def test_a_stepped_range_is_stored_as_optuna_has_it(folder):
    space = {RATE: {"low": 0.1, "high": 0.75, "step": 0.2}, DEPTH: {"low": 1, "high": 6, "step": 2}}
    study = told(opened(folder, sweep(space=space, enqueue=[], n_trials=12)))
    domains = parameters(study.space, study.base)
    assert isinstance(domains[RATE], Range)
    for row in search.rows(study):
        assert row.params[RATE] in (0.1, 0.3, 0.5, 0.7)
        assert row.params[DEPTH] in (1, 3, 5)
        assert search.trial_of(study, row).config.optimizer.learning_rate == row.params[RATE]


def test_trial_has_the_times_of_its_training_and_a_note(folder):
    study = opened(folder, sweep(n_trials=2))

    def timed(trial):
        return {**outcome_of(trial), "times_ms": (1_000_000, 1_004_500)}

    told(study, outcome_of=timed)
    assert [trial.duration.total_seconds() for trial in study.study.trials] == [4.5, 4.5]
    search.add_notes(study, {0: "[run](a)", 1: "[run](b)"})
    search.add_notes(study, {0: "another"})
    noted = study.study._storage.get_study_system_attrs(study.study._study_id)
    ids = [trial._trial_id for trial in study.study.trials]
    assert [noted[f"dashboard:{own}:note_str:0"] for own in ids] == ["[run](a)", "[run](b)"]
    assert {noted[f"dashboard:{own}:note_ver"] for own in ids} == {1}


def test_identity_has_places_at_which_a_line_may_break(folder):
    study = opened(folder, sweep())
    assert max(map(len, study.study.user_attrs["mlp.identity"].split())) < 100

"""From what was typed to values: every file composes, and every slip ends in one sentence."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest

from mlp.config import RESULT_GROUPS
from mlp.engine.population import Ending
from mlp.errors import SettingError
from mlp.settings import read_run, read_sweep, setting_paths, unknown_setting, with_settings
from mlp.study.identity import check_study
from mlp.study.space import flat
from mlp.terminal.compose import (
    compose,
    group_options,
    own_study_files,
    shipped,
    study_config,
    study_files,
    typed_configs,
    typed_settings,
)
from mlp.tracking.record import Recipe, read_recipe, write_recipe
from support.sweeping import command

OPTIONS = [(group, name) for group, names in group_options().items() for name in names]
STUDIES = sorted(path.stem for path in shipped("sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*overrides, **keywords):
    return read_run(compose("train", overrides, **keywords))


def sweep(*overrides, **keywords):
    config = read_sweep(compose("sweep", overrides, **keywords))
    check_study(config)
    return config


def refusal(*overrides, read=train, **keywords):
    with pytest.raises(SettingError) as caught:
        read(*overrides, **keywords)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message.replace(str(Path.cwd()), "")) < 400
    return message


def study_file(name, text):
    place = Path("sweeps")
    place.mkdir(exist_ok=True)
    (place / f"{name}.yaml").write_text(text)


# -- every file there is


def survives(run):
    run = with_settings(run, {"data.name": "digits"})
    recipe = Recipe(run, "0" * 64, Ending.COMPLETED, run.training.steps)
    back = read_recipe(write_recipe(recipe)).config
    assert all(getattr(back, group) == getattr(run, group) for group in RESULT_GROUPS)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_group_option_composes_and_survives_its_record(group, name):
    survives(train(f"{group}={name}"))


@pytest.mark.parametrize("name", sorted({*STUDIES} - {"own"}))
def test_every_study_composes_and_survives_its_record(name):
    config = sweep(f"sweeps={name}")
    assert config.study.file == name
    assert config.study.space
    survives(config.base)


def test_the_default_study_is_accuracy():
    assert sweep() == sweep("sweeps=accuracy")


def test_there_are_files():
    assert {"accuracy", "best", "smoke", "seed", "oscillation"} <= set(STUDIES)
    assert set(group_options()) >= {"data", "model", "gradient", "optimizer", "training"}


# -- overrides that do something


def test_settings_and_groups_are_overridden_together():
    run = train("model=relu", "model.widths=[5,4]", "gradient=unit", "training.batch_size=null")
    assert run.model.layer_widths == (5, 4)
    assert (run.model.activation, run.gradient.normalization) == ("relu", "unit")


def test_a_group_may_be_left_out():
    assert train("~model").model.widths == 3


def test_a_value_may_be_that_of_another_setting():
    assert train("training.seed=7", "training.order_seed=${training.seed}").training.order_seed == 7


def test_a_further_folder_of_configs(folder):
    (folder / "more" / "model").mkdir(parents=True)
    (folder / "more" / "model" / "tall.yaml").write_text("depth: 6\nwidths: 2\n")
    assert train("model=tall", config_dir="more").model.depth == 6
    assert "one of question, relu" in refusal("model=tall")
    assert refusal("model=tall", config_dir="nope") == (
        "--config-dir must be a folder, but is 'nope'"
    )


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("study.space.optimizer.learning_rate.mean.high=3", "optimizer.learning_rate", 3),
        ("study.space.model.depth.high=2", "model.depth", 2),
    ],
)
def test_the_command_line_reaches_into_a_space(override, path, expected):
    domain = flat(sweep(override).study.space)[path]
    assert domain.get("mean", domain)["high"] == expected


def test_a_domain_is_added_removed_and_replaced():
    added = flat(sweep("+study.space.training.seed=[0,1]").study.space)
    assert added["training.seed"] == [0, 1]
    assert "model.depth" not in flat(sweep("~study.space.model.depth").study.space)
    replaced = sweep("~study.space.model.depth", "+study.space.model.depth=[1,2]")
    assert flat(replaced.study.space)["model.depth"] == [1, 2]


@pytest.mark.parametrize("name", ["2024", "nan", "true", "1e5"])
def test_a_name_may_look_like_a_number(name):
    study_file(name, "study: {n_trials: 1, space: {optimizer.momentum: [0.0, 0.5]}}\n")
    config = sweep(f"sweeps={name}", f"study.name={name}", f"tracking.experiment={name}")
    assert (config.study.file, config.study.name) == (name, name)
    assert config.base.tracking.experiment == name
    assert sweep(f"sweeps='{name}'").study.file == name
    assert study_config(name).study.file == name


def test_null_is_no_text():
    assert sweep("study.name=null").study.name is None


# -- what is typed wrong


@pytest.mark.parametrize("prefix", ["", "+", "++", "~"])
def test_unknown_settings_are_refused_behind_every_prefix(prefix):
    value = "" if prefix == "~" else "=1"
    assert refusal(f"{prefix}optimizer.learnig_rate{value}") == (
        "unknown setting 'optimizer.learnig_rate'; did you mean 'optimizer.learning_rate'?"
    )


def test_short_names_are_answered_with_the_settings_that_are_meant():
    for typed, meant in {
        "lr": "optimizer.learning_rate",
        "optimizer.lr": "optimizer.learning_rate",
        "bs": "training.batch_size",
        "batch_size": "training.batch_size",
        "seed": "training.seed",
        "steps": "training.steps",
        "depth": "model.depth",
        "widths": "model.widths",
        "activation": "model.activation",
        "momentum": "optimizer.momentum",
        "model.momentum": "optimizer.momentum",
    }.items():
        said = f"unknown setting '{typed}'; did you mean '{meant}'?"
        assert unknown_setting(typed, setting_paths()) == said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=1", "unknown setting 'learning_rate'; did you mean 'optimizer.learning_"),
        ("modle=relu", "unknown setting 'modle'; did you mean 'model'?"),
        ("model.depth.x=1", "unknown setting 'model.depth.x'; did you mean 'model.depth'?"),
        ("model.widths.0=3", "unknown setting 'model.widths.0'; did you mean 'model.widths'?"),
        ("_target_=os.system", "unknown setting '_target_'"),
        ("+model._target_=os.system", "unknown setting 'model._target_'"),
        ("=3", "unknown setting ''"),
        ("study.n_trials=3", "unknown setting 'study.n_trials'"),
        ("sweeps=smoke", "unknown setting 'sweeps'"),
        ("~model.depth", "model.depth cannot be removed; give it a value"),
        ("model=rel", "model must be one of question, relu, but is 'rel'; did you mean 'relu'?"),
        ("model=../train", "model must be one of question, relu, but is '../train'"),
        (
            "model=null",
            "model must be one of question, relu, but is None; "
            "its settings are written model.setting=value",
        ),
        ("optimizer=1", "optimizer must be one of gradient_descent, momentum, but is 1; its sett"),
        ("model={depth:3}", "model must be one of question, relu, but is {'depth': 3}; its"),
        ("model=[relu,3]", "model must be one of question, relu, but is ['relu', 3]; its"),
        ("model.depth=two", "model.depth must be an integer, but is 'two'"),
        ("model.depth='2'", "model.depth must be an integer, but is '2'"),
        ("model.depth=true", "model.depth must be an integer, but is True"),
        ("training.steps=1e3", "training.steps must be an integer, but is 1000.0"),
        ("optimizer.learning_rate=", "optimizer.learning_rate must be a number, but is ''"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate must be a finite number, but is"),
        ("optimizer.learning_rate=1e400", "optimizer.learning_rate must be a finite number, but"),
        (
            "model.widths=[3,3,3]",
            "model.widths must have model.depth = 2 entries, but is [3, 3, 3]",
        ),
        (
            "model.widths=3,3",
            "'model.widths=3,3' has several values; a list is written in brackets, "
            "model.widths=[...], and --multirun runs one after the other",
        ),
        ("model.depth=range(1,3)", "'model.depth=range(1,3)' has several values"),
        ("model.depth=2 model.widths=3", "cannot read 'model.depth=2 model.widths=3'"),
        ("optimizer.learning_rate", "cannot read 'optimizer.learning_rate'; an override is writt"),
        ("", "cannot read ''"),
        ("model.widths=[3,3", "cannot read 'model.widths=[3,3'"),
        ("data.root=~/x", "cannot read 'data.root=~/x'; an override is written setting=value, and"),
        ("model.depth=\x1b[31m", "cannot read 'model.depth=\\x1b[31m'"),
        ("training.steps=" + "9" * 5000, "cannot read 'training.steps=999"),
        ("training.steps=" + "9" * 400, "training.steps must be at most 1000000000, but is 999"),
        (
            "optimizer.learning_rate=${nope}",
            "optimizer.learning_rate: Interpolation key 'nope' not found",
        ),
        ("optimizer.learning_rate=${oc.env:NO_SUCH}", "optimizer.learning_rate: "),
        ("optimizer.learning_rate=${nope:1}", "optimizer.learning_rate: Unsupported interpolation"),
        ("optimizer.learning_rate=???", "optimizer.learning_rate: Missing mandatory value"),
        ("training.seed=${training.seed}", "training.seed: "),
        ("hydra.nope=3", "hydra.nope would do nothing here; of Hydra's own settings there are"),
        ("hydra/launcher=basic", "hydra/launcher would do nothing here"),
        ("hydra.run.dir=x", "hydra.run.dir would do nothing here"),
        ("hydra.verbose=3", "hydra.verbose must be true, false or the name of a logger, but is 3"),
        ("+model=relu", "Multiple values for model."),
        ("++model=relu", "force-add of config groups is not supported"),
    ],
)
def test_slips_end_in_one_sentence(override, message):
    assert refusal(override).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.n_trial=3", "unknown setting 'study.n_trial'; did you mean 'study.n_trials'?"),
        (
            "sweeps=acuracy",
            "sweeps must be one of accuracy, best, oscillation, own, seed, smoke, but",
        ),
        ("sweeps=null", "sweeps must be one of accuracy, best, oscillation, own, seed, smoke, but"),
        ("~sweeps=3", "sweeps must be one of accuracy, best, oscillation, own, seed, smoke, but"),
        ("~gradient=[sum]", "gradient must be one of clip, mean, question, sum, unit, but is"),
        ("study=3", "unknown setting 'study'; it is a group of settings, such as study.file"),
        ("seed=1", "unknown setting 'seed'; did you mean 'training.seed' or 'study.seed'?"),
        (
            "study.space={optimizer.momentum: [0.1,1]}",
            "study.space is typed setting by setting: '+study.space.optimizer.momentum=...' adds",
        ),
        (
            "study.sampler=qcm",
            "study.sampler must be one of tpe, random, qmc or grid, but is '",
        ),
        ("study.space=null", "study.space must be a mapping, but is None"),
        ("+study.space.nope=[1]", "unknown setting 'study.space.nope'"),
        (
            "+study.space.optimizer.learning_rate.mean.hihg=3",
            "study.space.optimizer.learning_rate.mean has an unknown key 'hihg'",
        ),
        (
            "study.space.optimizer.learning_rate.mean.hihg=3",
            "study.space.optimizer.learning_rate.mean.hihg: Key 'hihg' is not in struct",
        ),
        (
            "study.space.model.depth=[1,2]",
            "study.space.model.depth: Cannot merge DictConfig with ListConfig; "
            "'~study.space.model.depth' '+study.space.model.depth=...' puts another domain in its",
        ),
        (
            "study.space.gradient.normalization=[mean]",
            "study.enqueue sets gradient.normalization = sum, outside mean; study.enqueue=[] enq",
        ),
        (
            "model=relu",
            "study.enqueue: gradient.derivative=question needs model.activation=sigmoid",
        ),
        ("study.sampler=grid", "study.sampler=grid needs choices or a step for "),
        ("study.space.model.depth.high=99", "study.space can draw model.depth=99, "),
        ("data.validation_fraction=0", "study.objective=validation_accuracy needs data.validation"),
        ("study.file=../x", "study.file must be made of letters"),
    ],
)
def test_slips_of_a_study_end_in_one_sentence(override, message):
    assert refusal(override, read=sweep).startswith(message)


# -- studies of the user's own


def test_a_study_of_the_users_own_is_found():
    study_file("mine", "study:\n  n_trials: 3\n  space:\n    optimizer.learning_rate: [0.1, 0.2]\n")
    config = sweep("sweeps=mine")
    assert (config.study.file, config.study.n_trials) == ("mine", 3)
    assert own_study_files() == []
    assert study_files()["mine"].parent == Path.cwd() / "sweeps"


def test_a_study_of_the_users_own_goes_before_the_shipped_one():
    study_file("smoke", "study:\n  n_trials: 3\n  space: {optimizer.momentum: [0.0, 0.5]}\n")
    assert sweep("sweeps=smoke").study.n_trials == 3
    assert own_study_files() == ["smoke"]


def test_the_shipped_folder_itself_is_not_the_users_own(monkeypatch):
    monkeypatch.chdir(shipped("sweeps").parent)
    assert own_study_files() == []


def test_a_study_may_choose_options_of_groups():
    study_file(
        "wide",
        "defaults:\n  - override /model: relu\n"
        "study: {n_trials: 3, space: {optimizer.momentum: [0.0, 0.5]}}\n",
    )
    assert sweep("sweeps=wide").base.model.activation == "relu"


def test_paths_and_groups_of_a_space_are_put_together():
    study_file("both", "study:\n  space:\n    model.depth: [1, 2]\n    model: {widths: [2, 3]}\n")
    assert flat(sweep("sweeps=both").study.space) == {
        "model.depth": [1, 2],
        "model.widths": [2, 3],
    }


def test_a_branch_may_be_a_number_or_null():
    study_file(
        "branches",
        "study:\n  space:\n    model.depth: [1, 2]\n    training.batch_size: [null, 8]\n"
        "    optimizer.learning_rate:\n      by: model.depth\n      1: [0.1]\n"
        "      2: {low: 0.1, high: 1.0}\n"
        "    optimizer.momentum: {by: training.batch_size, 'null': 0.5, 8: 0.9}\n"
        "model: {widths: 3}\n",
    )
    override = "study.space.optimizer.learning_rate.2.high=0.5"
    space = flat(sweep("sweeps=branches", override).study.space)
    assert space["optimizer.learning_rate"]["2"]["high"] == 0.5
    assert set(space["optimizer.momentum"]) == {"by", "null", "8"}


BAD_FILES = {
    "broken": ("study: [", "cannot read the study file "),
    "binary": ("\x00\x01", "cannot read the study file "),
    "listed": ("- 1\n", "the study file "),
    "none": ("study: {space: {model.depth: {null: 1}}}\n", "cannot read the study file "),
    "group": (
        "study: {space: {optimizer: [gradient_descent, momentum], optimizer.decay: [none]}}\n",
        "the space of the study file ",
    ),
    "double": ("study: {}\nstudy: {}\n", "cannot read the study file "),
    "template": ('command: ["${{env}}"]\n', "cannot read the study file "),
    "twice": ("study: {space: {model.depth: 1, model: {depth: 2}}}\n", "the space of the study"),
    "mixed": ("study: {space: {model: 3, model.depth: 2}}\n", "the space of the study file "),
    "keys": ('study: {space: {model.depth: {"1": 1, 1: 2}}}\n', "the space of the study file "),
}


@pytest.mark.parametrize(("name", "text", "message"), [(k, *v) for k, v in BAD_FILES.items()])
def test_a_study_file_that_cannot_be_read_is_refused_where_it_is_selected(name, text, message):
    study_file(name, text)
    refused = refusal(f"sweeps={name}", read=sweep)
    assert refused.startswith(message)
    assert f"sweeps/{name}.yaml" in refused


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("none", "the key null is written in quotes, 'null': ..."),
        ("group", "such as optimizer.learning_rate, but varies the config group optimizer as a w"),
    ],
)
def test_a_study_file_that_is_refused_is_told_the_way_out(name, remedy):
    study_file(name, BAD_FILES[name][0])
    assert remedy in refusal(f"sweeps={name}", read=sweep)


def test_a_value_without_a_branch_is_told_the_way_out():
    text = (
        "study:\n  space:\n    model.activation: [relu, tanh]\n"
        "    optimizer.momentum: {by: model.activation, relu: [0.5]%s}\ngradient: "
        "{derivative: exact}\n"
    )
    study_file("cond", text % "")
    message = refusal("sweeps=cond", read=sweep)
    assert message.endswith("it has relu; 'tanh: [0.0]' keeps the default there")
    study_file("cond", text % ", tanh: [0.0]")
    assert sweep("sweeps=cond").study.space


def test_study_files_that_cannot_be_read_do_not_stop_what_does_not_select_them():
    for name, (text, _) in BAD_FILES.items():
        study_file(name, text)
    (Path("sweeps") / "folder.yaml").mkdir()
    (Path("sweeps") / "gone.yaml").symlink_to("nowhere")
    (Path("sweeps") / "latin.yaml").write_bytes(b"name: \xe4\n")
    train()
    sweep("sweeps=smoke")
    for name in ("folder", "gone", "latin"):
        assert refusal(f"sweeps={name}", read=sweep).startswith("cannot read the study file")


def test_a_broken_file_in_place_of_the_default_study_is_not_passed_over():
    study_file("accuracy", "study: [")
    assert refusal(read=sweep).startswith("cannot read the study file ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: 3\n", "study must be a group of settings, but is 3"),
        ("study: {n_trial: 3}\n", "unknown setting 'study.n_trial'; did you mean 'study.n_trials"),
        ("stduy: {n_trials: 3}\n", "unknown setting 'stduy'; did you mean 'study'?"),
        (
            "optimizer: {learnig_rate: 3}\n",
            "unknown setting 'optimizer.learnig_rate'; did you mean",
        ),
        ("model.depth: 3\n", "'model.depth' must be written as a setting in its group, model: {d"),
        ("study: {space: 3}\n", "study.space must be a mapping, but is 3"),
        ("study: {space: {model: {widths: ['${nope}']}}}\n", "study.space.model.widths[0]: Inter"),
        ("study: {space: {model.depth: {low: 3, high: 1}}}\n", "study.space.model.depth.low must"),
        ("program: train.py\nmethod: bayes\n", "unknown setting 'program'"),
        ("hello\n", "unknown setting 'hello'"),
    ],
)
def test_a_study_file_with_a_slip_is_refused_in_one_sentence(text, message):
    study_file("mine", text)
    assert refusal("sweeps=mine", read=sweep).startswith(message)


# -- settings typed one by one, as a rerun takes them


def test_typed_settings_are_those_that_were_typed():
    overrides = ["optimizer.learning_rate=0.1", "tracking.experiment=x"]
    typed = typed_settings(overrides, compose("train", overrides))
    assert typed == {"optimizer.learning_rate": 0.1}


def test_a_whole_group_says_too_little():
    with pytest.raises(SettingError, match="one by one instead of 'gradient=sum'"):
        typed_settings(["gradient=sum"], compose("train", ["gradient=sum"]))


# -- what a command line asks for


def asked(monkeypatch, *words, command="train", read=read_run):
    """The configs of a command line."""
    monkeypatch.setattr("sys.argv", [command, *words])
    return list(typed_configs(command, read, lambda: "the help"))


def test_a_command_line_is_composed_once_and_read_once(monkeypatch):
    composed, compose_once = [], hydra.compose
    monkeypatch.setattr(
        "hydra.compose", lambda *args, **kw: composed.append(args) or compose_once(*args, **kw)
    )
    read = []
    [config] = asked(
        monkeypatch, "model=relu", read=lambda values: read.append(values) or read_run(values)
    )
    assert config == train("model=relu")
    assert (len(composed), len(read)) == (2, 1)  # the second is that of the line above


def test_multirun_takes_every_combination_and_says_which(monkeypatch, capsys):
    words = ("data=digits", "-m", "gradient=mean,unit", "training.seed=range(0,2)")
    configs = asked(monkeypatch, *words)
    assert [(c.gradient.normalization, c.training.seed) for c in configs] == [
        ("mean", 0),
        ("mean", 1),
        ("unit", 0),
        ("unit", 1),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "job 1 of 4: gradient=mean training.seed=0",
        "job 2 of 4: gradient=mean training.seed=1",
        "job 3 of 4: gradient=unit training.seed=0",
        "job 4 of 4: gradient=unit training.seed=1",
    ]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("training.seed=3",), ["job 1 of 1"]),
        (("training.seed=3,4", "training.seed=5"), ["job 1 of 1"]),  # the last one counts
        (("gradient=glob([s*,u*])",), ["job 1 of 2: gradient=sum", "job 2 of 2: gradient=unit"]),
        (
            ("tracking.uri='sqlite://a:secret@b','sqlite:///b'",),
            [
                "job 1 of 2: tracking.uri='sqlite://a:***@b'",
                "job 2 of 2: tracking.uri='sqlite:///b'",
            ],
        ),
    ],
)
def test_lines_of_a_multirun(monkeypatch, capsys, words, lines):
    asked(monkeypatch, "--multirun", *words)
    assert capsys.readouterr().out.splitlines() == lines


def test_every_job_of_a_multirun_is_checked_before_the_first_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "-m", "training.steps=3,4,-1"])
    with pytest.raises(SettingError, match=r"training.steps must be at least 1"):
        next(typed_configs("train", read_run, str))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--help",), "the help\n"),
        (("--cfg", "job", "--package", "optimizer.momentum"), "0.0\n"),
        (("-c", "job", "-p", "gradient", "gradient=unit"), "# @package gradient\nnormalization: u"),
        (("--cfg", "hydra"), "hydra:\n"),
        (("--cfg", "all"), "hydra:\n"),
    ],
)
def test_flags_that_show_something_give_no_config(monkeypatch, capsys, words, shown):
    assert asked(monkeypatch, *words) == []
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cfg", "job", "-m"), "argument --multirun/-m: not allowed with argument --cfg/-c"),
        (("--cfg", "job", "-p", "nope"), "--package must be a part of the config, but is 'nope'"),
        (("--cfg", "nope"), "argument --cfg/-c: invalid choice: 'nope'"),
        (("-cn", "nope"), "Cannot find primary config 'nope'"),
        (("--nope",), "unrecognized arguments: --nope; --hydra-help lists the flags"),
        (("--resolve",), "--resolve and --package go with --cfg"),
        (("-m", "training.steps=interval(1,2)"), "'training.steps=interval(1,2)' must name"),
        (("-sc", "nope"), "--shell-completion must be install=bash or uninstall=bash"),
    ],
)
def test_flags_that_mean_nothing_are_refused(monkeypatch, words, message):
    with pytest.raises(SettingError) as caught:
        asked(monkeypatch, *words)
    assert str(caught.value).startswith(message)


def test_verbose_reaches_the_loggers(monkeypatch):
    monkeypatch.setattr(logging.getLogger("of_a_test"), "level", logging.WARNING)
    train("hydra.verbose=[of_a_test]")
    assert logging.getLogger("of_a_test").level == logging.DEBUG


# -- the commands as processes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "+optimizer.learnig_rate=1"], "unknown setting 'optimizer.learnig_rate'; did"),
        (["train", "tracking.uri=x://a:secret@b=c"], "cannot read 'tracking.uri=x://a:***@b=c'"),
        (
            ["train", "tracking.uri=nonsense"],
            "tracking.uri must be an SQLite file (sqlite:///FILE)",
        ),
        (["train", "--config-path", "x"], "unrecognized arguments: --config-path"),
        (["sweep", "sweeps=own"], "sweeps=own needs own.file=FILE.py, the file of your function"),
        (
            ["rerun", "0" * 32, "optimizer.learnig_rate=1"],
            "unknown setting 'optimizer.learnig_rate'",
        ),
    ],
)
def test_a_slip_exits_with_two_and_one_line_and_leaves_nothing(arguments, message, folder):
    answer = command(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith(f"error: {message}")
    assert answer.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--cfg", "job", "model=relu"], "activation: relu"),
        (["train", "--info"], "Defaults Tree"),
        (["train", "--version"], "mlp-sweep 0.1.0"),
        (["sweep", "--help"], "sweeps: accuracy, best, mine, oscillation, own, seed, smoke"),
    ],
)
def test_flags_that_only_show_leave_nothing(arguments, expected, folder):
    study_file("mine", "study: {n_trials: 3, space: {optimizer.momentum: [0.0, 0.5]}}\n")
    answer = command(*arguments)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert expected in answer.stdout
    assert [path.name for path in folder.iterdir()] == ["sweeps"]


def test_a_slip_is_answered_before_anything_slow_is_imported():
    code = (
        "import sys, mlp.train\n"
        "sys.argv = ['train', 'optimizer.learnig_rate=1']\n"
        "try:\n    mlp.train.main()\n"
        "except SystemExit as end:\n"
        "    slow = {'mlflow', 'optuna', 'sklearn', 'pandas', 'ray'} & set(sys.modules)\n"
        "    print(end.code, sorted(slow))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(shipped("conf").parent)}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert answer.stdout == "2 []\n"

"""The command that judges any loss curve: what it reads, says, prints and exits with."""

import io
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

import mlp
from mlp import judge as command
from mlp.curve import judge_curve
from mlp.errors import DataError, MissingInputError, SettingError
from mlp.tracking.picture import plot_curve
from support.sweeping import tracked
from support.world import copy

SWINGING = 1 + 0.4 * (-1.0) ** np.arange(80)
FALLING = 0.1 + 2.2 * np.exp(-np.arange(80) / 20)


def judged(monkeypatch, capsys, *arguments, stdin=""):
    """Exit code and the objects that were printed."""
    monkeypatch.setattr(sys, "argv", ["judge", *map(str, arguments), "--json"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    try:
        command._judge()
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def ask(monkeypatch, capsys):
    return lambda *arguments, **kwargs: judged(monkeypatch, capsys, *arguments, **kwargs)


def verdicts(answer):
    return [each["verdict"] for each in answer[1]]


def write_table(path, header, *columns):
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_each_kind_of_file_is_read(ask, tmp_path):
    np.save(tmp_path / "a.npy", SWINGING)
    np.savez(tmp_path / "b.npz", loss=SWINGING, step=np.arange(80) * 5)
    write_table(tmp_path / "c.csv", "step,loss,acc", range(80), SWINGING, range(80))
    write_table(tmp_path / "d.tsv", "loss", SWINGING)
    (tmp_path / "e.txt").write_text("\n".join(map(str, SWINGING)))
    lines = [
        f"Epoch {i}/80 - acc: 0.9 - loss: {v:.4f} - val_loss: 7" for i, v in enumerate(SWINGING)
    ]
    (tmp_path / "f.log").write_text("\n".join(["starts", *lines, "done"]))
    for path in sorted(tmp_path.iterdir()):
        assert verdicts(ask(path)) == ["oscillating"], path
    code, found = ask(tmp_path)
    assert (code, len(found)) == (0, 6)
    assert [each["period_steps"] for each in found] == [2, 10, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "line",
    ["{i} loss 0.4547", "loss=0.4547", "step {i}: Loss: 0.4547, lr 1", "train loss is 4.547e-1 ok"],
)
def test_lines_as_programs_print_them(ask, line):
    _, [found] = ask("-", stdin="\n".join(line.format(i=i) for i in range(50)))
    assert found["tail_loss"] == pytest.approx(0.4547)
    assert found["n_entries"] == 50


def test_standard_input_may_be_numbers_alone_and_end_undefined(ask):
    assert verdicts(ask("-", stdin="3 2 1")) == ["learning"]
    assert verdicts(ask("-", stdin="loss 3\nloss nan\n")) == ["diverged"]
    with pytest.raises(DataError, match="no number behind the word 'loss'; column=NAME"):
        ask("-", stdin="nothing here")


def test_what_is_known_of_the_curve_is_told(ask, tmp_path):
    loss = 0.15 + 2.2 * np.exp(-np.arange(200) / 15)
    path = write_table(tmp_path / "run.csv", "train_loss", loss)
    assert verdicts(ask(path, "classes=10")) == ["converged"]
    assert verdicts(ask(path, "classes=2", "loss=ce")) == ["stalled"]
    noisy = write_table(tmp_path / "n.csv", "loss", 3 * np.random.RandomState(0).rand(400))
    assert verdicts(ask(noisy, "batch_size=all")) == ["oscillating"]
    assert verdicts(ask(noisy, "batch_size=2", "classes=2")) == ["stalled"]


def test_columns_and_steps_are_named_or_found(ask, tmp_path):
    order = np.random.RandomState(0).permutation(80)
    path = write_table(tmp_path / "t.csv", "_step,train_loss,mae", order, FALLING[order], SWINGING)
    assert verdicts(ask(path)) == ["learning"]
    assert verdicts(ask(path, "column=mae", "x=_step")) != ["learning"]
    with pytest.raises(MissingInputError, match="no column 'mea'; did you mean 'mae'"):
        ask(path, "column=mea")
    with pytest.raises(MissingInputError, match="has no column 'time'; it has _step"):
        ask(path, "x=time")
    one_step = write_table(tmp_path / "s.csv", "step,loss", [0] * 80, SWINGING)
    with pytest.raises(DataError, match="are of step 0, so their order is not known"):
        ask(one_step)


def test_an_export_of_weights_and_biases_has_a_curve_for_each_run(ask, tmp_path):
    header = '"Step","a - loss","a - loss__MIN","b - loss"'
    path = write_table(tmp_path / "w.csv", header, range(80), FALLING, FALLING, SWINGING)
    _, found = ask(path)
    assert [each["curve"].split()[-3] for each in found] == ["a", "b"]
    assert [each["verdict"] for each in found] == ["learning", "oscillating"]


def test_an_export_of_weights_and_biases_may_have_gaps_and_any_metric(ask, tmp_path):
    rows = ['"trainer/global_step","a - val_Loss","a - val_Loss__MIN","b - val_Loss"']
    rows += [
        f"{5 * i},{SWINGING[i] if i % 2 < 1 or i > 40 else ''},,{FALLING[i]}" for i in range(80)
    ]
    path = tmp_path / "w.csv"
    path.write_text("\n".join(rows))
    for words in ([], ["column=val_Loss"]):
        _, found = ask(path, *words)
        assert [each["verdict"] for each in found] == ["oscillating", "learning"]
        assert [each["n_entries"] for each in found] == [60, 80]
        assert found[0]["period_steps"] == 10
    with pytest.raises(MissingInputError, match="no column 'acc'"):
        ask(path, "column=acc")


def of_protobuf(number, kind, value):
    """A field of a message; kind 0: an integer below 128, 1 and 5: fixed, 2: bytes."""
    payload = bytes([value]) if kind == 0 else value
    size = b""
    if kind == 2:
        size = bytes([len(value) & 127 | 128, len(value) >> 7])
    return bytes([number << 3 | kind]) + size + payload


def a_simple_value(value):
    return of_protobuf(2, 5, struct.pack("<f", value))


def a_tensor(dtype, *further):
    return of_protobuf(8, 2, of_protobuf(1, 0, dtype) + b"".join(further))


def a_tensor_of_floats(value):
    return a_tensor(1, of_protobuf(5, 2, struct.pack("<f", value)))


def a_tensor_of_bytes(value):
    return a_tensor(2, of_protobuf(4, 2, struct.pack("<d", value)))


A_TEXT = a_tensor(7, of_protobuf(8, 2, b"words"))
A_HISTOGRAM = a_tensor(2, of_protobuf(4, 2, struct.pack("<3d", 1.0, 2.0, 3.0)))


def write_events(path, rows):
    """An event file: rows of step, tag and how the value is written."""
    events = [of_protobuf(1, 1, struct.pack("<d", 1e9)) + of_protobuf(3, 2, b"brain.Event:2")]
    for step, tag, value in rows:
        summary = of_protobuf(1, 2, of_protobuf(1, 2, tag.encode()) + value)
        time_and_step = of_protobuf(1, 1, struct.pack("<d", 1e9 + step))
        time_and_step += bytes([2 << 3, step & 127 | 128, step >> 7]) if step else b""
        events.append(time_and_step + of_protobuf(5, 2, summary))
    path.parent.mkdir(parents=True, exist_ok=True)
    records = (struct.pack("<Q4x", len(event)) + event + bytes(4) for event in events)
    path.write_bytes(b"".join(records))
    return path


@pytest.mark.parametrize("write", [a_simple_value, a_tensor_of_floats, a_tensor_of_bytes])
def test_event_files_of_tensorboard_are_read_without_it(ask, tmp_path, write):
    rows = [(5 * i, "train/loss", write(v)) for i, v in enumerate(SWINGING)]
    others = [(0, "note", A_TEXT), (0, "weights", A_HISTOGRAM), (3, "lr", write(0.1))]
    path = write_events(tmp_path / "events.out.tfevents.1.host", others + rows)
    _, [found] = ask(path)
    assert (found["verdict"], found["period_steps"]) == ("oscillating", 10)
    assert (found["n_entries"], found["curve"]) == (80, str(path))
    whole = path.read_bytes()
    for n_missing in (1, 4, 5, 9, 20):  # as while it is written
        path.write_bytes(whole[:-n_missing])
        assert ask(path)[1][0]["n_entries"] == 79
    with pytest.raises(MissingInputError, match="it has lr, train/loss"):
        ask(path, "column=weights")


def test_event_files_of_one_folder_are_of_one_run_where_they_go_on(ask, tmp_path):
    def write(name, steps):
        rows = [(i, "Loss/train", a_simple_value(FALLING[i])) for i in steps]
        rows += [(i, "Loss/test", a_simple_value(1.0)) for i in steps]
        write_events(tmp_path / name, rows)

    write("a/events.out.tfevents.1", range(60))
    write("a/events.out.tfevents.2", range(40, 70))  # from a checkpoint
    write("a/events.out.tfevents.3", range(80))  # another run
    write("b/events.out.tfevents.1", range(0, 80, 3))
    np.save(tmp_path / "a" / "c.npy", FALLING)
    _, found = ask(tmp_path)
    names = [each["curve"].removeprefix(f"{tmp_path}/") for each in found]
    assert dict(zip(names, [each["n_entries"] for each in found], strict=True)) == {
        "a/c.npy": 80,
        "a/events.out.tfevents.1": 70,
        "a/events.out.tfevents.3": 80,
        "b/events.out.tfevents.1": 27,
    }
    assert {each["verdict"] for each in found} == {"learning"}


def test_event_file_that_diverges_or_is_damaged(ask, tmp_path):
    values = [3.0, 2.0, np.inf, np.nan]
    path = tmp_path / "events.out.tfevents.1"
    write_events(path, [(i, "loss", a_simple_value(v)) for i, v in enumerate(values)])
    assert verdicts(ask(path)) == ["diverged"]
    path.write_bytes(struct.pack("<Q4x", 4) + bytes([2 << 3 | 3, 1, 1, 1]) + bytes(4))
    with pytest.raises(DataError, match="cannot be read: it is no event file"):
        ask(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(MissingInputError, match="one of nothing"):
        ask(path)


@pytest.mark.parametrize(
    "event",
    [
        of_protobuf(5, 2, of_protobuf(1, 2, of_protobuf(1, 0, 9) + a_simple_value(1.0))),
        of_protobuf(2, 2, b"xx") + of_protobuf(5, 2, of_protobuf(1, 2, a_simple_value(1.0))),
        bytes([1 << 3]) + b"\x80" * 5000,
        bytes([5 << 3 | 2, 255, 255, 255, 255, 127]),
    ],
)
def test_event_file_of_hostile_bytes_is_one_sentence_and_costs_its_folder_nothing(
    ask, tmp_path, event
):
    rows = [(i, "loss", a_simple_value(v)) for i, v in enumerate(FALLING)]
    write_events(tmp_path / "events.out.tfevents.1", rows)
    record = struct.pack("<Q4x", len(event)) + event + bytes(4)
    (tmp_path / "events.out.tfevents.2").write_bytes(record)
    assert verdicts(ask(tmp_path)) == ["learning"]
    with pytest.raises((DataError, MissingInputError)):
        ask(tmp_path / "events.out.tfevents.2")


def test_exit_code_is_one_where_a_verdict_fails(ask, tmp_path):
    np.save(tmp_path / "a.npy", SWINGING)
    assert ask(tmp_path / "a.npy", "fail_on=oscillating,diverged")[0] == 1
    assert ask(tmp_path / "a.npy", "fail_on=diverged")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.npy", "los=mse"], "unknown option 'los'; did you mean 'loss'?"),
        (["a.npy", "loss=mae"], "loss must be cross_entropy or mse, but is 'mae'"),
        (["a.npy", "classes=1"], "classes must be an integer of at least 2, but is '1'"),
        (["a.npy", "fail_on=bad"], "fail_on must name verdicts"),
        (["classes=10"], "nothing to judge was named"),
        (["a.npy", "--jsn"], "unknown option '--jsn'"),
    ],
)
def test_what_was_typed_wrong_is_one_sentence(ask, arguments, sentence):
    with pytest.raises(SettingError) as refused:
        ask(*arguments)
    assert str(refused.value).startswith(sentence)


def test_a_file_that_is_none_is_refused_and_in_a_folder_passed_over(ask, tmp_path, monkeypatch):
    (tmp_path / "x.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("x.npy", "objects.npy"):
        with pytest.raises(DataError, match=rf"{name} cannot be read"):
            ask(tmp_path / name)
    with pytest.raises(MissingInputError, match=r"there is no file gone\.csv"):
        ask("gone.csv")
    np.save(tmp_path / "y.npy", FALLING)
    assert verdicts(ask(tmp_path)) == ["learning"]


def test_people_see_verdict_sentence_numbers_and_plot(monkeypatch, capsys, tmp_path):
    np.save(tmp_path / "a.npy", SWINGING)
    monkeypatch.setattr(sys, "argv", ["judge", str(tmp_path / "a.npy")])
    command._judge()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.npy: oscillating")
    assert lines[1] == "  The loss keeps swinging up and down and does not settle."
    assert lines[2] == "  ends at 0.6 · level 1 · swings by 80 % · period 2 steps · values 80"
    assert lines[3].startswith("  1.4 █")
    assert lines[-1].startswith("  0.6 █")
    assert len(lines) == 11


def test_what_is_said_to_end_somewhere_ends_there(monkeypatch, capsys):
    loss = [1 + 7.8 * (number / 99) ** 4 for number in range(100)]
    monkeypatch.setattr(sys, "argv", ["judge", "-"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(map(str, loss))))
    command._judge()
    _, sentence, numbers, *_ = capsys.readouterr().out.splitlines()
    assert sentence == "  The loss ends at 8.8, far above 1, where it began."
    assert numbers == "  ends at 8.8 · level 7.755 · values 100"
    monkeypatch.setattr(sys, "stdin", io.StringIO("3 2 nan"))
    command._judge()
    assert capsys.readouterr().out.splitlines()[2] == "  level 2 · values 2"


def test_a_plot_spans_what_the_curve_does():
    assert plot_curve([np.nan]) == []
    assert len(plot_curve(np.ones(5))) == 8
    spike = np.ones(6400)
    spike[3200] = 2.0
    assert plot_curve(spike)[0].count("█") == 1
    assert "log" in "".join(plot_curve(np.logspace(0, -4, 50)))


def test_it_starts_without_what_is_slow(tmp_path):
    np.save(tmp_path / "a.npy", SWINGING)
    program = (
        "import sys; sys.argv = ['judge', 'a.npy']; from mlp import judge; judge.main();"
        "slow = {'mlflow', 'numba', 'optuna', 'pandas', 'hydra', 'pydantic', 'scipy'};"
        "print(slow & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_run_and_an_experiment_of_mlflow_are_judged(ask, empty, world):
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    copy(world.trained(), empty)
    [run] = tracked(empty)
    uri = f"sqlite:///{empty}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("mine")
    foreign = client.create_run(experiment, run_name="swinging").info.run_id
    points = [Metric("train_loss", float(v), i, 0) for i, v in enumerate(SWINGING)]
    client.log_batch(foreign, metrics=points)
    _, [own] = ask(run.run_id)
    assert own["verdict"] == run.tags["verdict"]
    for source in ("mine", foreign):
        code, [found] = ask(source, "fail_on=oscillating")  # ordered by their times
        assert (code, found["verdict"]) == (1, "oscillating")
    with pytest.raises(MissingInputError, match="no file, run, study or experiment 'other'"):
        ask("other")
    with pytest.raises(MissingInputError, match="study or experiment"):
        ask("Ada's study")


def test_a_study_is_judged_by_its_name(ask, empty, world):
    from mlflow import MlflowClient

    copy(world.swept(), empty)
    [study] = {run.tags["mlp.study"] for run in tracked(empty)}
    trials = [run for run in tracked(empty) if "mlp.trial" in run.tags]
    trials.sort(key=lambda run: int(run.tags["mlp.trial"]))
    strange = {"mlp.study": study, "mlp.trial": "the third"}
    client = MlflowClient(f"sqlite:///{empty}/mlflow.db")
    experiment = client.get_run(trials[0].run_id).info.experiment_id
    client.create_run(experiment, tags=strange)  # by hand: no trial of it
    assert verdicts(ask(study)) == [run.tags["verdict"] for run in trials]


def test_from_python_it_is_a_function():
    assert mlp.judge_curve is judge_curve

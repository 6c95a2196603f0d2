"""Trackers: the real packages write, their own readers read, and none of them can end a run."""

import contextlib
import importlib.util
import json
import struct
import sys
import time

import pytest

from glmc import recipe, trackers
from glmc.errors import UserError
from glmc.trackers.base import flat
from glmc.train import run as training

RECIPE = {"name": "digits_lt/glmc", "train": {"epochs": 3, "milestones": []}, "published": None}
RECORDS = [
    {"epoch": 1, "step": 7, "lr": 0.05, "terms": {"ce": 2.25}, "seconds": {"train": 1.5, "eval": 0.5}},
    {"epoch": 2, "step": 14, "lr": 0.02, "terms": {"ce": 1.5}, "test": {"top1": 50.0}, "seconds": {"train": 1.5}},
    {"epoch": 3, "step": 21, "lr": 0.01, "terms": {"ce": 0.5}, "test": {"top1": 75.0}, "seconds": {"train": 1.5}},
]
RESULT = {"epochs": 3, "last": {"top1": 75.0, "balanced": 62.5}, "per_class": [{"name": "0"}]}


def needs(package):
    """A test of a tracker whose package, or whose reader, may be missing."""
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is not installed")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run-001"
    folder.mkdir()
    return folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B and MLflow write into a folder and talk to nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def opened(names, run, records=(), say=pytest.fail):
    """Trackers that have begun."""
    tracks = trackers.Tracks(run, say)
    tracks.begin(names, RECIPE, records)
    return tracks


def interrupted_then_resumed(name, run, pause=0.0):
    """Two epochs and an interruption; then the run goes on after epoch 2 and is trained to its end."""
    said = []
    first = opened([name], run, say=said.append)
    for record in RECORDS[:2]:
        first.log(record)
    first.finish()
    time.sleep(pause)
    second = opened([name], run, RECORDS[:2], said.append)
    second.log(RECORDS[2])
    (run / "result.json").write_text(json.dumps(RESULT))
    second.finish()
    assert said == []


# --- what each of them holds afterwards -------------------------------------------------------------------------------


def event_payloads(folder):
    """The events of all files in a folder, framing undone by hand: length, its checksum, data, its checksum."""
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield content[12 : 12 + length]
            content = content[16 + length :]


def events(run):
    """What TensorBoard has been told of a run."""
    from tensorboardX.proto.event_pb2 import Event

    return [Event.FromString(payload) for payload in event_payloads(run / "tensorboard")]


def epochs(run):
    """The epochs that TensorBoard has been told of."""
    return [event.step for event in events(run) if event.step]


def test_event_files_are_whole_after_every_epoch(run):
    tracks = opened(["tensorboard"], run)
    for number, record in enumerate(RECORDS, start=1):
        tracks.log(record)  # not closed: a killed run must leave what it has told
        assert epochs(run) == list(range(1, number + 1))
    values = {value.tag: value.simple_value for value in events(run)[-1].summary.value}
    assert values == pytest.approx(flat(RECORDS[2]))


@needs("tensorboard")
def test_tensorboard_reads_one_curve_of_an_interrupted_run(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted_then_resumed("tensorboard", run, pause=1.1)  # its files are named by the second
    assert len(list((run / "tensorboard").iterdir())) == 2
    seen = EventAccumulator(str(run / "tensorboard"))
    seen.Reload()
    assert [(e.step, e.value) for e in seen.Scalars("terms/ce")] == [(1, 2.25), (2, 1.5), (3, 0.5)]
    assert [(e.step, e.value) for e in seen.Scalars("test/top1")] == [(2, 50.0), (3, 75.0)]
    (tag,) = seen.Tags()["tensors"]
    assert b"digits_lt/glmc" in seen.Tensors(tag)[0].tensor_proto.string_val[0]


def wandb_records(file):
    """The records of a W&B file: after 7 bytes, pieces with a checksum, a length and a kind (1: whole)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at = file.read_bytes(), 7
    assert len(content) < 32768, "longer files are cut into blocks, which this reader does not know"
    while at < len(content):
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        assert kind == 1
        yield Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length


def whole(file):
    """All records of a W&B file, once its last one is there: another process writes it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(struct.error, AssertionError):
            records = list(wandb_records(file))
            if any(record.HasField("exit") for record in records):
                return records
        time.sleep(0.2)
    raise AssertionError(f"{file} was never finished")


@needs("wandb")
def test_wandb_goes_on_in_the_same_run(run, offline):
    interrupted_then_resumed("wandb", run, pause=1.1)  # its folders are named by the second
    known = json.loads((run / "trackers.json").read_text())["wandb"]
    assert known["epochs"] == 3
    first, second = (whole(file) for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")))
    told, exits = [], []
    for records in (first, second):
        assert {record.run.run_id for record in records if record.HasField("run")} == {known["id"]}
        for record in records:
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            told += [(record.history.step.num, row["epoch"], row["terms/ce"])] if row else []
            exits += [record.exit.exit_code] if record.HasField("exit") else []
    assert told == [(1, 1, 2.25), (2, 2, 1.5), (3, 3, 0.5)]
    assert exits == [1, 0]
    summary = [item for record in second for item in record.summary.update]
    assert ["last/balanced"] in [[item.key] if item.key else list(item.nested_key) for item in summary]


@needs("wandb")
def test_two_wandb_runs_may_be_open_at_once(tmp_path, offline):
    """Runs with several seeds are trained side by side in one program."""
    both = []
    for name in ("seed-0", "seed-1"):
        (tmp_path / name).mkdir()
        both.append(opened(["wandb"], tmp_path / name))
    for record in RECORDS:
        for tracks in both:
            tracks.log(record)
    for tracks in both:
        tracks.finish()
    ids = {json.loads((tmp_path / name / "trackers.json").read_text())["wandb"]["id"] for name in ("seed-0", "seed-1")}
    assert len(ids) == 2


@needs("mlflow")
def test_mlflow_goes_on_in_the_same_run(run, offline):
    import mlflow

    interrupted_then_resumed("mlflow", run)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("glmc").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "digits_lt/glmc run-001"
    assert found.data.params["train/epochs"] == "3"
    curve = client.get_metric_history(found.info.run_id, "terms/ce")
    assert [(point.step, point.value) for point in curve] == [(1, 2.25), (2, 1.5), (3, 0.5)]
    assert found.data.metrics["last/balanced"] == 62.5


@needs("mlflow")
def test_mlflow_is_told_of_an_interruption(run, offline):
    import mlflow

    tracks = opened(["mlflow"], run)
    tracks.log(RECORDS[0])
    tracks.finish()
    run_id = json.loads((run / "trackers.json").read_text())["mlflow"]["id"]
    assert mlflow.MlflowClient().get_run(run_id).info.status == "KILLED"


# --- what may go wrong ------------------------------------------------------------------------------------------------


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("glmc.trackers.wandb:WeightsAndBiases", "no_such_package"))
    with pytest.raises(UserError, match=r"train\.track: wandb needs the package no_such_package.*pip install no_such"):
        trackers.require(["tensorboard", "wandb"])
    trackers.require(["tensorboard"])


def test_a_folder_that_wandb_left_behind_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "left_behind" / "offline-run").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("glmc.trackers.wandb:WeightsAndBiases", "left_behind"))
    with pytest.raises(UserError, match="not installed"):
        trackers.require(["wandb"])


def test_requiring_imports_nothing(monkeypatch):
    for name in ("tensorboardX", "wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    there = [name for name, (_, package) in trackers.TRACKERS.items() if importlib.util.find_spec(package)]
    trackers.require(there)
    assert not {"tensorboardX", "wandb", "mlflow"} & set(sys.modules)


def test_a_tracker_that_cannot_begin_is_one_sentence_before_training(run):
    (run / "tensorboard").write_text("a file where a folder must be")
    with pytest.raises(UserError, match=r"train\.track: tensorboard cannot begin \(FileExistsError: .*leave tensorb"):
        opened(["tensorboard"], run)


@needs("mlflow")
def test_a_server_that_is_not_there_is_one_sentence_before_training(run, offline, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(UserError, match=r"mlflow cannot begin \(MlflowException: .*\)") as caught:
        opened(["mlflow"], run)
    assert "\n" not in str(caught.value)


class Failing:
    """A tracker that cannot take the second epoch."""

    def begin(self, run, recipe):
        return 0

    def log(self, record):
        1 / (2 - record["epoch"])

    def finish(self, result):
        pass


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(run, monkeypatch):
    said = []
    monkeypatch.setitem(trackers.TRACKERS, "failing", ("test_track:Failing", "json"))
    tracks = opened(["failing", "tensorboard"], run, say=said.append)
    tracks.log(RECORDS[0])
    tracks.log(RECORDS[1])
    tracks.log(RECORDS[2])
    tracks.finish()
    assert len(said) == 1
    assert said[0].startswith("failing has failed and tracks this run no longer (ZeroDivisionError: ")
    assert len(list(event_payloads(run / "tensorboard"))) == 3 + 3  # version, start, recipe; and the epochs


def test_who_comes_later_or_has_missed_epochs_is_told_them(run):
    opened(["tensorboard"], run, RECORDS).finish()
    assert epochs(run) == [1, 2, 3]


@needs("mlflow")
def test_an_epoch_that_is_trained_again_is_not_told_again(run, offline):
    """A kill between a tracker and the checkpoint: the resumed run repeats the epoch."""
    import mlflow

    first = opened(["mlflow"], run)
    for record in RECORDS[:2]:
        first.log(record)
    second = opened(["mlflow"], run, RECORDS[:1])
    for record in RECORDS[1:]:
        second.log(record)
    second.finish()
    run_id = json.loads((run / "trackers.json").read_text())["mlflow"]["id"]
    assert [point.step for point in mlflow.MlflowClient().get_metric_history(run_id, "lr")] == [1, 2, 3]


def test_nested_figures_get_one_name_each():
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b/c": 2, "b/d/e": 3}


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Overrides -> a recipe of seconds, whose report is not drawn."""
    monkeypatch.setattr("glmc.report.write", lambda run: (run / "report.html").touch())
    small = ["data.imbalance=2", "data.n_max=16", "train.epochs=2", "train.device=cpu", "expect=null", "eval.every=1"]
    return lambda *overrides: recipe.load("digits_lt/ce", [*small, *overrides])


def trained(wanted, run):
    training.train(wanted, run, command="test", quiet=True, since=time.perf_counter())
    return json.loads((run / "result.json").read_text())


def test_a_run_is_tracked_and_comes_out_the_same(tiny, run, tmp_path):
    tracked = trained(tiny("train.track=[tensorboard]"), run)
    alone = trained(tiny(), tmp_path / "alone")
    assert tracked["weights_sha256"] == alone["weights_sha256"]
    assert epochs(run) == [1, 2]
    assert not (tmp_path / "alone" / "tensorboard").exists()


def test_a_resumed_run_may_get_a_tracker(tiny, run):
    trained(tiny(), run)
    (run / "result.json").unlink()  # as after a kill before the very end
    training.resume(run, ("train.track=[tensorboard]",), command="test", quiet=True, since=time.perf_counter())
    assert epochs(run) == [1, 2]


def test_a_missing_package_leaves_no_run_behind(tiny, run, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("glmc.trackers.wandb:WeightsAndBiases", "no_such_package"))
    with pytest.raises(UserError, match="no_such_package"):
        trained(tiny("train.track=[wandb]"), run)
    assert not run.exists()

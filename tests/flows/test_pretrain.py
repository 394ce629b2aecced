"""Pre-training as a flow runs it: a run folder that says what it is, and goes on or refuses to."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import flows
from flows import build, run_folder
from flows.build import pick_device, pick_loader
from flows.config import first_difference, read_config
from flows.evaluate import evaluate
from flows.exchange.export import export
from flows.options import EvaluateOptions, LoaderOptions, PretrainOptions
from flows.pretrain import find_finished_run, pretrain, resolve, summary
from flows.run_folder import read_run, revision
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import LOG, TIME_FIELDS, read_log
from pipelines.conversion.convert import convert
from pipelines.loaders.loader import ViewLoader
from pipelines.synthetic import synthesize
from shards.amounts import describe_bytes
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError, StoreError
from shards.manifest import read_manifest

Make = Callable[..., PretrainOptions]

STAGED = "pcm3pp+tiny"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def interrupted(options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in the middle of its second epoch."""

    class Interrupted(ViewLoader):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            for step, views in enumerate(super().epoch(epoch, first_step), first_step):
                if (epoch, step) == (1, 2):
                    signal.raise_signal(signal.SIGINT)
                yield views

    with monkeypatch.context() as patch:
        patch.setattr("flows.build.ViewLoader", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(options(tmp_path / "interrupted"))
    return tmp_path / "interrupted"


def test_a_run_folder_says_what_it_is(run: Path, store: Path, options: Make) -> None:
    config = read_config(run / "config.json")
    assert first_difference(config, resolve(options(run))) is None
    assert (config.objective.encoder.hidden, config.train.epochs, config.data.stream) == (8, 2, "joint")
    record, manifest = read_run(run), read_manifest(store)
    assert (record.fingerprint, record.recipe) == (manifest.fingerprint, "pcm3")
    assert Path(record.store) == store
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", record.revision)
    assert record.versions["torch"] == torch.__version__
    assert set(record.versions) == {"skelstream", "torch", "python"}


def test_the_revision_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(flows.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        pytest.skip("the code does not lie in a checkout of its own")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    assert revision().removesuffix("+changes") == head.stdout.strip()
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert revision() == "unknown"


def test_asking_for_the_revision_leaves_the_index_of_the_checkout_alone(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, check=True)

    file = tmp_path / "file"
    file.write_text("equal")
    git("init")
    git("add", "file")
    git("commit", "-m", "first")
    os.utime(file, (1, 1))  # equal still, but its time in the index is another: what `git status` would note there
    before = (tmp_path / ".git" / "index").read_bytes()
    assert run_folder._git(tmp_path, "status", "--porcelain", "--untracked-files=no") == ""
    assert (tmp_path / ".git" / "index").read_bytes() == before


def test_a_run_folder_holds_log_events_and_checkpoints(run: Path) -> None:
    lines = read_log(run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 4), (1, 8)]
    assert lines[0]["lr"] == 0.02
    assert lines[1]["lr"] == pytest.approx(0.002)
    assert set(lines[0]["terms"]) == {"base", "masked", "predicted", "mix", "clip", "distill", "prediction"}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["epoch_0001.pt", "epoch_0002.pt"]
    checkpoint = load_checkpoint(run / "checkpoints" / "epoch_0002.pt", read_run(run).fingerprint)
    assert checkpoint.meta["config"] == read_config(run / "config.json").model_dump(mode="json")


def test_a_complete_run_is_found_and_left_as_it_is(run: Path, options: Make) -> None:
    before = contents(run)
    result = pretrain(options(run))
    assert (result.epochs, result.steps, result.checkpoint) == (2, 8, run / "checkpoints" / "epoch_0002.pt")
    assert pretrain(options(run, resume=True)) == result == find_finished_run(options(run))
    assert contents(run) == before
    assert summary(result) == f"{result.checkpoint}: 2 epochs, 8 steps"


def test_nothing_is_finished_where_nothing_is(options: Make, tmp_path: Path) -> None:
    assert find_finished_run(options(tmp_path / "new")) is None
    assert not (tmp_path / "new").exists()


def test_another_configuration_is_refused_with_the_differing_key(run: Path, options: Make) -> None:
    before = contents(run)
    for changed, message in (
        (options(run, "train.lr=0.5"), r"train\.lr is 0\.02 there and 0\.5 here"),
        (options(run, streams=("bone",)), r"data\.streams is \['joint'\] there and \['bone'\] here"),
        (options(run, protocol="xsub"), r"data\.protocol is 'xview' there and 'xsub' here"),
        (
            options(run, method="pcm3+tiny", resume=True),
            r"method is 'pcm3pp\+tiny\+no-post' there and 'pcm3\+tiny' here",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(changed)
    assert contents(run) == before


def test_a_run_goes_on_into_its_second_stage_and_keeps_the_end_of_the_first(options: Make, tmp_path: Path) -> None:
    ours = options(tmp_path / "run", "train.stages.post.epochs=2", "train.keep_checkpoints=1", method=STAGED)
    result = pretrain(ours)
    assert result == dataclasses.replace(result, epochs=4, steps=16, checkpoint=ours.run / "checkpoints/epoch_0004.pt")
    names = [path.name for path in sorted((ours.run / "checkpoints").iterdir())]
    assert names == ["epoch_0002.pt", "epoch_0004.pt"]
    assert find_finished_run(ours) == dataclasses.replace(result, curves=())
    result.checkpoint.unlink()
    assert find_finished_run(ours) is None  # the first stage alone is no complete run
    again = pretrain(ours.model_copy(update={"resume": True}))
    assert [untimed(line) for line in again.curves] == [untimed(line) for line in result.curves]
    assert (again.epochs, again.checkpoint) == (4, result.checkpoint)


def test_a_second_stage_added_to_a_complete_run_is_that_of_a_run_that_had_it_from_the_start(
    options: Make, tmp_path: Path
) -> None:
    none, one = "train.stages.post.epochs=0", "train.stages.post.epochs=1"
    whole = pretrain(options(tmp_path / "whole", one, method=STAGED))
    pretrain(options(tmp_path / "run", none, method=STAGED))
    added = pretrain(options(tmp_path / "run", one, method=STAGED, resume=True))
    states = [load_checkpoint(result.checkpoint).objective for result in (whole, added)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_config(tmp_path / "run" / "config.json").train.stages[0].epochs == 1
    assert find_finished_run(options(tmp_path / "run", one, method=STAGED)) is not None
    # the end of the first stage is still a checkpoint of this run
    first = tmp_path / "run" / "checkpoints" / "epoch_0002.pt"
    assert (
        "| trained | 2 of 3 epochs" in (export(tmp_path / "run", first, tmp_path / "export") / "README.md").read_text()
    )


def test_options_that_decide_the_steps_done_do_not_change_on_resume(
    interrupted: Path, run: Path, options: Make
) -> None:
    for folder in (interrupted, run):
        before = contents(folder)
        with pytest.raises(CheckpointError, match=r"found lr 0\.02, expected 0\.5"):
            pretrain(options(folder, "train.lr=0.5", "train.epochs=3", resume=True))
        assert contents(folder) == before


def test_a_resumed_run_reads_the_tensors_of_its_checkpoint_once(
    interrupted: Path, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str | None] = []
    test = zipfile.ZipFile.testzip  # the checksums of all that is in the file are compared
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda file: (reads.append(file.filename), test(file))[1])
    pretrain(options(interrupted, resume=True))
    assert [Path(str(name)).name for name in reads] == ["epoch_0001_step_000002.pt"]


def test_a_checkpoint_of_another_method_is_refused(interrupted: Path, options: Make) -> None:
    other = options(interrupted, method="pcm3pp+tiny+no-post+no-guidance", resume=True)
    (interrupted / "config.json").write_text(resolve(other).model_dump_json())  # as if somebody had copied it there
    with pytest.raises(
        CheckpointError, match=r"epoch_0001_step_000002\.pt.*pcm3pp\+tiny\+no-post.*pcm3pp\+tiny\+no-post\+no-guidance"
    ):
        pretrain(other)


def test_an_interrupted_run_is_refused_without_resume(interrupted: Path, options: Make) -> None:
    path = latest_checkpoint(interrupted)
    assert path is not None
    assert path.name == "epoch_0001_step_000002.pt"
    before = contents(interrupted)
    assert find_finished_run(options(interrupted)) is None
    with pytest.raises(ConfigError, match=f"holds an unfinished run .{path.name}.; go on with --resume"):
        pretrain(options(interrupted))
    assert contents(interrupted) == before


def test_a_resumed_run_ends_with_the_bytes_of_an_undisturbed_one(interrupted: Path, run: Path, options: Make) -> None:
    result = pretrain(options(interrupted, resume=True))
    expected = run / "checkpoints" / "epoch_0002.pt"
    assert result.checkpoint.read_bytes() == expected.read_bytes()
    assert [untimed(line) for line in read_log(interrupted)] == [untimed(line) for line in read_log(run)]
    assert (interrupted / "config.json").read_bytes() == (run / "config.json").read_bytes()


def untimed(line: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in line.items() if name not in TIME_FIELDS}


def test_resume_on_a_new_folder_starts_a_run_without_a_word(
    run: Path, options: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = pretrain(options(tmp_path / "new", resume=True))
    assert result.checkpoint.read_bytes() == (run / "checkpoints" / "epoch_0002.pt").read_bytes()
    assert not caplog.records


def test_a_store_of_another_fingerprint_is_refused_with_both(
    run: Path, interrupted: Path, store: Path, other_store: Path, options: Make
) -> None:
    for folder in (run, interrupted):
        with pytest.raises(CheckpointError) as caught:
            pretrain(options(folder, data=other_store, resume=True))
        for data in (store, other_store):
            assert read_manifest(data).fingerprint in str(caught.value)
    assert read_run(interrupted).fingerprint == read_manifest(store).fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "xset"}, "ntu60 has no protocol 'xset', expected xsub or xview"),
        ({"dataset": "ntu61"}, "unknown data set 'ntu61'"),
        ({"method": "moco"}, "unknown method 'moco'"),
        ({"device": "tpu"}, "tpu"),
        ({"device": "meta"}, "expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "expected that one"),
    ],
)
def test_an_unknown_name_is_refused_and_leaves_no_folder(
    options: Make, tmp_path: Path, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path / "run", **fields))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=32", "objective.queue_size is 32, expected more than train.batch_size 32"),
        ("train.batch_size=12", "objective.queue_size is 32, expected a multiple of train.batch_size 12"),
        ("objective.pairs=[]", "expected at least one"),
        ("train.nothing=1", "unknown key"),
        ("train.batch_size=1", "train.batch_size is 1, expected at least 3"),
        ("train.batch_size=2", "train.batch_size is 2, expected at least 3"),
        ("objective.queue_size=64", None),
        ("data.samples=7", "ntu60 xview train: found 7 samples for an epoch, expected train.batch_size 8 or more"),
        ("data.weight=0.2", "ntu60 xview train: found 6 samples for an epoch, expected train.batch_size 8 or more"),
        ("train.precision=tf32", "found precision tf32 on the device cpu"),
    ],
)
@pytest.mark.parametrize("gpus", [None, 2])
def test_options_that_cannot_work_leave_no_folder_and_the_corrected_ones_train_there(
    options: Make, tmp_path: Path, override: str, message: str | None, gpus: int | None
) -> None:
    overrides = (override, "train.batch_size=64", "objective.queue_size=128") if message is None else (override,)
    message = message or "ntu60 xview train: found 32 samples for an epoch, expected train.batch_size 64 or more"
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path / "run", *overrides, gpus=gpus))
    assert not (tmp_path / "run").exists()


def test_the_smallest_batch_trains(options: Make, tmp_path: Path) -> None:
    result = pretrain(options(tmp_path / "run", "train.batch_size=3", "objective.queue_size=6", "train.epochs=1"))
    assert result.steps == 10


def test_a_folder_in_which_nothing_was_trained_takes_any_configuration(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    class Failing(ViewLoader):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            raise ConfigError("no view can be made")

    with monkeypatch.context() as patch:
        patch.setattr("flows.build.ViewLoader", Failing)
        with pytest.raises(ConfigError, match="no view can be made"):
            pretrain(options(run))
    assert (run / LOG).read_text() == ""
    assert read_config(run / "config.json").train.lr == 0.02
    # as an older version may have left it, whose options would be refused now
    tree = json.loads((run / "config.json").read_text())
    tree["train"]["batch_size"] = 2
    (run / "config.json").write_text(json.dumps(tree))
    corrected = options(run, "train.lr=0.1", "train.epochs=1", "objective.encoder.hidden=4")
    assert find_finished_run(corrected) is None
    pretrain(corrected)
    assert read_config(run / "config.json") == resolve(corrected)
    with pytest.raises(ConfigError, match=r"holds a run with another configuration: objective\.encoder\.hidden is 4"):
        pretrain(options(run, resume=True))


def test_a_run_that_has_logged_a_step_keeps_its_configuration(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    class Failing(ViewLoader):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            for step, views in enumerate(super().epoch(epoch, first_step)):
                if step == 2:
                    raise MemoryError
                yield views

    with monkeypatch.context() as patch:
        patch.setattr("flows.build.ViewLoader", Failing)
        with pytest.raises(MemoryError):
            pretrain(options(run, "train.log_every=1"))
    assert latest_checkpoint(run) is None
    before = contents(run)
    for ask in (
        options(run, "train.log_every=1", "objective.encoder.hidden=4", resume=True),
        options(run, "train.log_every=1", "train.lr=0.1"),
    ):
        with pytest.raises(ConfigError, match="holds a run with another configuration"):
            pretrain(ask)
    with pytest.raises(ConfigError, match="found a run, expected a new folder; resume it or choose another"):
        pretrain(options(run, "train.log_every=1"))
    assert contents(run) == before
    assert pretrain(options(run, "train.log_every=1", resume=True)).epochs == 2


def test_a_run_that_another_process_has_trained_meanwhile_is_not_overwritten(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real = flows.pretrain.check_pretrain

    def meanwhile(*arguments: Any, **named: Any) -> None:
        monkeypatch.setattr("flows.pretrain.check_pretrain", real)
        pretrain(options(run, "train.epochs=1"))
        real(*arguments, **named)

    monkeypatch.setattr("flows.pretrain.check_pretrain", meanwhile)
    with pytest.raises(ConfigError, match=r"another configuration: objective\.encoder\.hidden is 8 there and 4 here"):
        pretrain(options(run, "train.epochs=1", "objective.encoder.hidden=4", resume=True))
    assert read_config(run / "config.json").objective.encoder.hidden == 8


def test_a_run_of_an_older_version_is_refused_with_one_error_that_says_so(
    run: Path, options: Make, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(run, tmp_path / "run"))
    tree = json.loads((old / "config.json").read_text())
    for part in (tree["objective"], tree["objective"]["encoder"], tree["views"], tree["train"]["optimizer"]):
        del part["kind"]
    (old / "config.json").write_text(json.dumps(tree))
    before = contents(old)
    message = f"^{old / 'config.json'}: found a run of an older version of skelstream, expected one of this version"
    for command in (
        lambda: pretrain(options(old, resume=True)),
        lambda: evaluate(EvaluateOptions(run=old, device="cpu")),
        lambda: export(old, None, tmp_path / "export"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            command()
        assert "\n" not in str(caught.value)
    assert contents(old) == before


def test_the_configuration_of_another_program_is_not_overwritten(options: Make, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"found no readable run\.json .*, expected the folder of a pre-training run"):
        pretrain(options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_probe_that_could_only_score_nothing_is_refused_before_a_folder_is_made(
    options: Make, tmp_path: Path
) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=4, samples=40, seed=0, zipped=False)
    for path in raw.rglob("*C001*.skeleton"):
        path.unlink()
    data = convert("ntu", [raw], tmp_path / "data", workers=0).folder
    message = r"train\.probe_every: .*found no sample of ntu60 xview test, expected at least one; 0 for no scores"
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path / "run", "train.probe_every=1", data=data))
    assert not (tmp_path / "run").exists()
    assert pretrain(options(tmp_path / "run", "train.epochs=1", data=data)).epochs == 1


@pytest.mark.parametrize(
    "override", ["method=pcm3", "data.dataset=ntu120", "data.protocol=xsub", 'data.streams=["bone"]']
)
def test_what_has_an_option_of_its_own_is_not_set_by_an_override(options: Make, tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="have options of their own"):
        resolve(options(tmp_path / "run", override))


def test_a_store_that_does_not_serve_the_data_set_is_refused(options: Make, tmp_path: Path, store: Path) -> None:
    for data, message in ((store, "source nwucla"), (tmp_path / "none", "no such folder")):
        with pytest.raises(StoreError, match=message):
            pretrain(options(tmp_path / "run", data=data, dataset="nwucla"))


def test_a_store_is_remembered_wherever_the_run_was_started(
    options: Make, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    pretrain(options(tmp_path / "run", "train.epochs=1", data=Path(store.name)))
    assert Path(read_run(tmp_path / "run").store) == store


def test_two_processes_do_not_train_in_one_folder(options: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process training in it"):
            pretrain(options(tmp_path / "run"))
    pretrain(options(tmp_path / "run", "train.epochs=1"))


def test_the_probe_puts_a_retrieval_score_in_the_log(options: Make, tmp_path: Path) -> None:
    pretrain(options(tmp_path / "run", "train.probe_every=2", "train.epochs=3"))
    first, *others = read_log(tmp_path / "run")
    assert "probe" not in first
    assert [line["probe"].keys() for line in others] == [{"retrieval"}] * 2
    assert all(0.25 < line["probe"]["retrieval"] <= 1 for line in others)


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_all_loaders_train_alike_on_every_stream(options: Make, tmp_path: Path, stream: str) -> None:
    terms = {}
    for loader in ("resident", "stream", "dali"):
        choice = LoaderOptions.model_validate({"loader": loader})
        pretrain(options(tmp_path / loader, "train.log_every=1", streams=(stream,), loader=choice))
        lines = [json.loads(line) for line in (tmp_path / loader / LOG).read_text().splitlines()]
        terms[loader] = [line["terms"] for line in lines if line["kind"] == "step"]
        assert len(terms[loader]) == 8
    assert terms["stream"] == terms["resident"]
    for ours, theirs in zip(terms["dali"], terms["resident"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("loader", ["stream", "dali"])
def test_an_interrupted_run_goes_on_with_another_loader(
    interrupted: Path, run: Path, options: Make, loader: str
) -> None:
    result = pretrain(options(interrupted, resume=True, loader=LoaderOptions.model_validate({"loader": loader})))
    found, expected = load_checkpoint(result.checkpoint), load_checkpoint(run / "checkpoints" / "epoch_0002.pt")
    for name, value in expected.objective.items():
        tolerance = 0.0 if loader == "stream" else 1e-3
        torch.testing.assert_close(found.objective[name], value, rtol=0, atol=tolerance, msg=name)


def test_pcm3_trains_without_the_clip_pair(options: Make, tmp_path: Path) -> None:
    pretrain(options(tmp_path / "run", "train.epochs=1", method="pcm3+tiny"))
    assert "clip" not in read_log(tmp_path / "run")[0]["terms"]


# a frame is 2 persons x 25 joints x 3 coordinates: 600 bytes in float32, 300 in float16
@pytest.mark.parametrize(
    ("frames", "dtype", "memory", "expected"),
    [
        (1000, "float32", 2_400_000, "resident"),
        (1000, "float32", 2_399_999, "stream"),
        (1000, "float16", 1_200_000, "resident"),
        (1000, "float16", 1_199_999, "stream"),
    ],
)
def test_a_split_is_resident_when_it_takes_a_quarter_of_the_memory_at_most(
    monkeypatch: pytest.MonkeyPatch, frames: int, dtype: str, memory: int, expected: str
) -> None:
    monkeypatch.setattr(build, "_memory", lambda device: memory)
    cpu = torch.device("cpu")
    split: Any = SimpleNamespace(num_frames=frames, dtype=np.dtype(dtype))
    kind, why = pick_loader(split, "auto", cpu)
    assert kind == expected
    quarter = "at most" if expected == "resident" else "more than"
    needed = describe_bytes(frames * (600 if dtype == "float32" else 300))
    assert (
        why == f"the split's frames take {needed} of the {describe_bytes(memory)} of memory on cpu, {quarter} a quarter"
    )
    for named in ("resident", "stream", "dali"):
        assert pick_loader(split, named, cpu) == (named, "as asked for")


def test_the_memory_asked_about_is_that_of_the_machine() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert build._memory(torch.device("cpu")) == pytest.approx(1024 * int(total.split()[1]), rel=0.01)


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == expected


@pytest.mark.parametrize("text", [None, "{", "[]", '{"store": 1}'])
def test_a_folder_without_a_run_record_is_refused(run: Path, tmp_path: Path, text: str | None) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    if text is not None:
        (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"found no readable run\.json"):
        read_run(tmp_path / "run")


def test_a_damaged_checkpoint_is_refused_by_name(run: Path, options: Make, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = latest_checkpoint(tmp_path / "run")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=path.name):
        pretrain(options(tmp_path / "run", resume=True))


def test_the_log_is_lines_of_json(run: Path) -> None:
    assert all(json.loads(line)["kind"] in ("epoch", "step") for line in (run / LOG).read_text().splitlines())

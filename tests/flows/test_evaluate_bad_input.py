"""What an evaluation says to data, runs and options that do not fit: a whole message, or a rule told in the details."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr

from flows.cli.main import main
from flows.evaluate import evaluate, find_finished_scores, find_omitted_tasks
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from models.evaluation.results import TaskResult
from models.training.checkpoint import load_checkpoint, save_checkpoint
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.errors import SkelstreamError
from tests.flows.conftest import METHOD

SHORT = (
    *("linear.epochs=1", "linear.crop=centre", "finetune.epochs=1", "semi.draws=1", "semi.fractions=[0.5]"),
    *("few_shot.ways=2", "few_shot.queries=1", "few_shot.shots=[1,2]", "few_shot.episodes=3", "early.ratios=[0.5]"),
)


def ask(run: Path, *tasks: str, more: Sequence[str] = (), **fields: Any) -> list[TaskResult]:
    return evaluate(EvaluateOptions(run=run, tasks=tasks, overrides=(*SHORT, *more), device="cpu", **fields))


def refused(message: str, run: Path, *tasks: str, more: Sequence[str] = (), **fields: Any) -> None:
    """The whole message, in which HEX stands for a hash."""
    with pytest.raises(SkelstreamError) as error:
        ask(run, *tasks, more=more, **fields)
    assert unhashed(str(error.value)) == message


def unhashed(message: str) -> str:
    return re.sub(r"\b[0-9a-f]{12,64}\b", "HEX", message)


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def scored(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(run, tmp_path_factory.mktemp("scored") / "run"))
    ask(folder, "linear", "retrieval", "few_shot")
    return folder


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    """A copy of the scored run that a test may spoil."""
    return Path(shutil.copytree(scored, tmp_path / "run"))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data whose class 0 has no training sample by camera, and whose class 59 no test sample."""
    folder = tmp_path_factory.mktemp("uneven")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=48, seed=0, zipped=False)
    absent = [path for path in raw.rglob("*.skeleton") if re.search(r"C00[23].*A001|C001.*A060", path.name)]
    assert absent
    for path in absent:
        path.unlink()
    store = convert("ntu", [raw], folder / "data", workers=0).folder
    return _pretrained(store, folder / "run")


def _pretrained(store: Path, run: Path, *overrides: str) -> Path:
    known: dict[str, Any] = {"data": store, "dataset": "ntu60", "protocol": "xview", "device": "cpu"}
    pretrain(PretrainOptions(**known, method=METHOD, run=run, overrides=("train.epochs=1", *overrides)))
    return run


def test_classes_without_training_or_test_samples_are_told_beside_the_score(uneven: Path) -> None:
    rows = ask(uneven, "linear", "retrieval", "early", "finetune", "semi", more=("baselines=false",))
    assert [row.task for row in rows] == ["linear", "retrieval", "early", "finetune", "semi", "semi"]
    others = sorted({*range(60)} - {0, 15, 30, 59})
    for row in rows:
        missing, per_class = row.details["missing_classes"], row.details["per_class"]
        assert isinstance(missing, list)
        assert isinstance(per_class, list)
        assert row.details["untested_classes"] == [*others, 59]
        if row.task != "semi":
            assert missing == sorted([0, *others])
        # what does not train is never right, and counts
        assert [number for number in missing if per_class[number]] == []  # type: ignore[call-overload]  # numbers
        assert per_class[0] == 0
        assert per_class[59] is None


OWN = ("linear", "retrieval", "occluded", "robustness", "early", "finetune", "semi")
"""Tasks that train on one side of the run's data and test on the other."""


def _store_without(folder: Path, absent: Callable[[str], bool]) -> Path:
    """A store of NTU recordings but for those of which `absent` says so by their names."""
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=40, seed=0, zipped=False)
    for path in [path for path in raw.rglob("*.skeleton") if absent(path.name)]:
        path.unlink()
    return convert("ntu", [raw], folder / "data", workers=0).folder


def left_out_alike(message: str, run: Path, more: Sequence[str] = ()) -> None:
    """Both ways to ask: by name each of `OWN` is refused, and "all" leaves each of them out, and nothing is written."""
    reasons = find_omitted_tasks(EvaluateOptions(run=run, tasks=("all",), overrides=(*SHORT, *more), device="cpu"))
    for task in OWN:
        refused(f"--tasks {task}: {message}", run, task, more=more)
        assert unhashed(reasons[task]) == message
    assert not (run / "results").exists()
    assert not (run / "features").exists()


def test_a_split_without_a_class_on_both_sides_is_refused_and_left_out_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = _store_without(tmp_path, lambda name: ("C001" in name) == ("A001" in name or "A016" in name))
    run = _pretrained(store, tmp_path / "run")
    message = (
        "ntu60 xview: found training samples of the classes [0, 15] and test samples of [30, 59], expected a class on"
        " both sides"
    )
    left_out_alike(message, run)
    # here nothing else is possible either
    more = ("few_shot.ways=5",)
    refused(
        f"--tasks all: found no task that this run and its data allow, expected one at least; linear: {message}",
        *(run, "all"),
        more=more,
    )
    assert main(["evaluate", str(run), "--tasks", "all", "--plain", "--set", more[0]]) == 1
    told = capsys.readouterr()
    for task in OWN:
        assert f"left out: {task}: {message}\n" in told.out
    assert "skelstream: error: --tasks all: found no task" in told.err
    assert not (run / "results").exists()


def test_a_single_class_to_train_on_is_refused_and_left_out(tmp_path: Path) -> None:
    store = _store_without(tmp_path, lambda name: "C001" not in name and "A001" not in name)
    run = _pretrained(store, tmp_path / "run", "train.batch_size=4")
    left_out_alike("ntu60 xview: found training samples of class 0 alone, expected two classes or more", run)


def test_a_side_without_samples_is_refused_and_left_out(own: Path, tmp_path: Path) -> None:
    """As where the weights were imported, or the store was made anew of fewer archives."""
    store = _store_without(tmp_path, lambda name: "C001" in name)
    record = own / "run.json"
    tree = json.loads(record.read_text())
    record.write_text(json.dumps(tree | {"store": str(store)}))
    message = f"{unhashed(str(store))}: found no sample of ntu60 xview test, expected at least one"
    left_out_alike(message, own)
    refused(f"--tasks few_shot: {message}", own, "few_shot")


def test_validation_without_a_second_person_or_a_common_class_is_refused_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    store = _store_without(tmp_path / "alone", lambda name: "C001" not in name and "P001" not in name)
    run = _pretrained(store, tmp_path / "alone" / "run", "train.batch_size=4")
    reasons = find_omitted_tasks(
        EvaluateOptions(run=run, tasks=("all",), overrides=(*SHORT, "validation=0.5"), device="cpu")
    )
    message = "validation by subject: found 1 subject, expected at least two"
    assert [task for task in OWN if reasons.get(task) == message] == [task for task in OWN if task != "retrieval"]
    assert "retrieval" not in reasons  # it trains nothing, so that nothing is held out
    refused(f"--tasks linear: {message}", run, "linear", more=("validation=0.5",))

    (tmp_path / "apart").mkdir()
    # each performer on the train side acts a class of their own
    own = {("P001", "A001"), ("P002", "A016"), ("P006", "A031"), ("P012", "A060")}
    store = _store_without(tmp_path / "apart", lambda name: "C001" not in name and (name[8:12], name[16:20]) not in own)
    run = _pretrained(store, tmp_path / "apart" / "run", "train.batch_size=4")
    with pytest.raises(
        SkelstreamError,
        match=r"^--tasks finetune: .* and validation samples of \[\d+\], expected a class on both sides$",
    ):
        ask(run, "finetune", more=("validation=0.25",))


def test_a_target_without_a_class_on_both_sides_is_refused_and_left_out(own: Path, tmp_path: Path) -> None:
    # even setups train
    target = _store_without(tmp_path, lambda name: ("S002" in name) == ("A001" in name or "A016" in name))
    more = (*SHORT, f"transfer.data={target}", "transfer.dataset=ntu120", "transfer.protocol=xset")
    message = (
        "ntu120 xset: found training samples of the classes [30, 59] and test samples of [0, 15], expected a class on"
        " both sides"
    )
    refused(f"--tasks transfer: {message}", own, "linear", "transfer", more=more)
    assert not (own / "results").exists()
    request = EvaluateOptions(run=own, tasks=("all",), overrides=more, device="cpu")
    assert find_omitted_tasks(request)["transfer"] == message


def test_more_neighbours_than_training_samples_are_refused_and_left_out(own: Path) -> None:
    message = "retrieval.k is 33, expected at most the 32 training samples"
    refused(f"--tasks retrieval: {message}", own, "retrieval", more=("retrieval.k=[1,33]",))
    assert not (own / "features").exists()
    request = EvaluateOptions(run=own, tasks=("all",), overrides=(*SHORT, "retrieval.k=[1,33]"), device="cpu")
    assert find_omitted_tasks(request)["retrieval"] == message
    assert ask(own, "retrieval", more=("retrieval.k=[1,32]", "baselines=false"))


def test_a_task_that_cannot_be_run_is_refused_before_those_named_before_it(own: Path) -> None:
    with pytest.raises(SkelstreamError, match=r"^--tasks retrieval: retrieval\.k is 33"):
        ask(own, "linear", "finetune", "retrieval", more=("retrieval.k=[1,33]",))
    assert not (own / "results").exists()


def test_fewer_samples_than_shots_are_refused_by_name_and_told_by_all(own: Path) -> None:
    message = "ntu60 xview test: class 0: found 4 samples, expected 6 or more (5 shots and 1 queries)"
    refused(f"--tasks few_shot: {message}", own, "few_shot", more=("few_shot.shots=[1,5]",))
    request = EvaluateOptions(run=own, tasks=("all",), overrides=(*SHORT, "few_shot.shots=[1,5]"), device="cpu")
    assert find_omitted_tasks(request)["few_shot"] == message
    # both sides together have enough
    rows = ask(own, "few_shot", more=("few_shot.shots=[1,5]", "few_shot.pool=all", "baselines=false"))
    assert [row.setting for row in rows] == [{"shots": 1}, {"shots": 5}]


def test_few_shot_classes_that_the_test_side_lacks_are_refused(own: Path) -> None:
    message = (
        "--tasks few_shot: ntu60 xview test: found no samples of classes [1, 77], expected classes among the labels"
        " [0, 15, 30, 59]"
    )
    refused(message, own, "few_shot", more=("few_shot.classes=[0,1,77]",))


def test_labels_outside_the_catalogue_are_refused_in_shards_and_in_the_store(
    store: Path, own: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "data" / store.name))
    for path in folder.rglob("*.tar"):
        path.write_bytes(re.sub(rb'("label": ?)59', rb"\g<1>99", path.read_bytes()))
    with pytest.raises(SkelstreamError, match=r"\.tar: S\w+: found label 99, expected 0 to 59 of ntu60$"):
        ask(own, "retrieval", data=str(folder))
    labels = zarr.open_group(folder / "store.zarr", mode="r+")["label"]
    assert isinstance(labels, zarr.Array)
    labels[:] = 77
    with pytest.raises(
        SkelstreamError, match=r"/store\.zarr: found label 77 of sample \d+, expected 0 to 59 of ntu60$"
    ):
        ask(own, "few_shot", data=str(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.streams", ["bone"], "found data.streams ['bone'], expected ['joint'] as in epoch_0002.pt"),
        ("views.frames", 32, "found views.frames 32, expected 16 as in epoch_0002.pt"),
        ("objective.encoder.hidden", 16, "found objective.encoder.hidden 16, expected 8 as in epoch_0002.pt"),
        (
            "data.streams",
            ["joint", "depth"],
            "data.streams.1: found 'depth': Input should be 'joint', 'bone' or 'motion'",
        ),
    ],
)
def test_a_configuration_that_the_checkpoint_was_not_trained_by_is_refused(
    own: Path, key: str, value: object, message: str
) -> None:
    path = own / "config.json"
    tree = json.loads(path.read_text())
    *parents, name = key.split(".")
    part = tree
    for parent in parents:
        part = part[parent]
    part[name] = value
    path.write_text(json.dumps(tree))
    refused(f"{path}: {message}", own, "retrieval")


def test_a_protocol_that_the_data_set_does_not_have_is_refused(own: Path) -> None:
    path = own / "config.json"
    path.write_text(path.read_text().replace('"xview"', '"xset"'))
    refused("ntu60 has no protocol 'xset', expected xsub or xview", own, "retrieval")
    path.write_text(path.read_text().replace('"xset"', '"xview"'))
    with pytest.raises(SkelstreamError, match=r"^pkummd2 has no protocol 'xset', expected xsub or xview$"):
        ask(own, "transfer", more=("transfer.protocol=xset",))


def test_a_layer_that_the_checkpoint_does_not_have_is_refused(own: Path) -> None:
    path = own / "checkpoints" / "epoch_0002.pt"
    message = (
        f"{own}: found an encoder with the layers last, mean, layer1, layer2, expected layer9, as --set layer asks for"
    )
    for task in ("retrieval", "few_shot", "linear"):
        refused(f"--tasks {task}: {message}", own, task, more=("layer=layer9",))
    checkpoint = load_checkpoint(path)
    objective = {k: v.clone() for k, v in checkpoint.objective.items() if not k.startswith("projector.")}
    save_checkpoint(own, replace(checkpoint, objective=objective), keep=1)
    message = f"{path}: found the layers last, mean, layer1, layer2, expected projector, as --set layer asks for"
    for task in ("retrieval", "few_shot", "linear"):
        refused(f"--tasks {task}: {message}", own, task, more=("layer=projector",))
    assert not (own / "results").exists()


def test_a_store_of_another_fingerprint_is_refused(own: Path, store: Path, other_store: Path) -> None:
    path = own / "checkpoints" / "epoch_0002.pt"
    message = f"{path}: found a checkpoint of data HEX, expected one of data HEX"
    refused(message, own, "retrieval", data=str(other_store))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("about.json", "cut"), ("about.json", "gone"), ("values.npy", "cut"), ("values.npy", "flipped")),
        *(("label.npy", "flipped"), ("sample_id.npy", "gone")),
    ],
)
def test_damaged_features_are_refused_by_the_name_of_the_file(copy: Path, name: str, damage: str) -> None:
    (copy / "results" / "retrieval.json").unlink()
    for path in (copy / "features").glob(f"*/{name}"):
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[:-10])
        else:
            data[-7] ^= 0x55
            path.write_bytes(data)
    advice = r": delete the folder (.*), the features are extracted again$"
    with pytest.raises(SkelstreamError, match=rf"features/[0-9a-f]+/{name}: found .*, expected .*{advice}") as error:
        ask(copy, "retrieval")
    folder = re.search(advice, str(error.value))
    assert folder is not None
    for path in (copy / "features").iterdir():
        shutil.rmtree(path)
    assert [row.task for row in ask(copy, "retrieval")] == ["retrieval"] * 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no results (JSONDecodeError), expected a results file"),
        (b"\x93\xff", "no results (UnicodeDecodeError), expected a results file"),
        (b'{"version": 3}', "no results (KeyError), expected a results file"),
        (b'{"version": 1, "results": []}', "results of version 1, expected 3"),
        (b'{"version": 3, "results": 3}', "no list of results, expected one"),
        (b'{"version": 3, "results": [{}]}', "a bad field task (Field required), expected the fields of a result"),
    ],
)
def test_damaged_results_are_refused_by_the_name_of_the_file(copy: Path, content: bytes, problem: str) -> None:
    path = copy / "results" / "retrieval.json"
    path.write_bytes(content)
    refused(f"{path}: found {problem}: move the file away to score again", copy, "retrieval")


def test_results_of_another_task_are_refused(copy: Path) -> None:
    path = copy / "results" / "retrieval.json"
    path.write_text(path.read_text().replace('"task": "retrieval"', '"task": "linear"'))
    refused(f"{path}: found a result of the task 'linear', expected retrieval", copy, "retrieval")


@pytest.mark.parametrize("name", ["episodes.npz", "class-scores/linear-trained-seed-0.npz", "semi-subsets.json"])
def test_what_was_drawn_and_scored_is_written_again_with_its_rows(scored: Path, copy: Path, name: str) -> None:
    path = copy / "results" / name
    tasks = {"episodes.npz": "few_shot", "semi-subsets.json": "semi"}
    if name == "semi-subsets.json":
        ask(copy, "semi")
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    (copy / "results" / f"{tasks.get(name, 'linear')}.json").unlink()
    ask(copy, tasks.get(name, "linear"))
    assert path.read_bytes() == before


def test_fusion_takes_only_what_was_scored_as_its_own_run_was(
    scored: Path, copy: Path, options: Callable[..., PretrainOptions], tmp_path: Path
) -> None:
    runs = {}
    for stream in ("bone", "motion"):
        runs[stream] = tmp_path / stream
        pretrain(options(runs[stream], "train.epochs=1", streams=(stream,)))
    more = tuple(f"fusion.{stream}={folder}" for stream, folder in runs.items())
    bone = runs["bone"] / "results"
    missing = f"{bone}/linear.json: found no result of {{'seed': 0}}, expected one: score the task linear of that run"
    request = EvaluateOptions(run=copy, tasks=("all",), overrides=(*SHORT, *more), device="cpu")
    assert find_omitted_tasks(request)["fusion"] == missing
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    refused(f"--tasks fusion: {missing}", copy, "finetune", "fusion", more=more)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    refused(
        f"--tasks fusion: {missing}",
        *(copy, "fusion"),
        more=more,
    )
    ask(runs["motion"], "linear", more=("baselines=false",))
    ask(runs["bone"], "linear", more=("linear.lr=0.01", "baselines=false"))
    refused(
        f"--tasks fusion: {bone}/linear.json: found lr 0.01, expected 0.1 as in this evaluation: score the task linear"
        " of that run so",
        *(copy, "fusion"),
        more=more,
    )
    ask(runs["bone"], "linear", more=("baselines=false",))
    (row,) = ask(copy, "fusion", more=more)
    checkpoints = row.details["checkpoints"]
    assert isinstance(checkpoints, dict)
    assert len(set(checkpoints.values())) == 3
    path = bone / "class-scores" / "linear-trained-seed-0.npz"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (copy / "results" / "fusion.json").unlink()
    refused(
        f"--tasks fusion: {path}: found no class scores (File is not a zip file), expected `logits`, `label` and"
        " `sample_id`",
        *(copy, "fusion"),
        more=more,
    )
    shutil.copy(copy / "results" / "class-scores" / "linear-random-encoder-seed-0.npz", path)
    with pytest.raises(
        SkelstreamError, match=rf"^--tasks fusion: {path}: found class scores of accuracy .* as in linear\.json: delete"
    ):
        ask(copy, "fusion", more=more)


def test_fusion_needs_the_linear_scores_of_its_own_run_or_that_task_before_it(
    own: Path, options: Callable[..., PretrainOptions], tmp_path: Path
) -> None:
    runs = {}
    for stream in ("bone", "motion"):
        runs[stream] = tmp_path / stream
        pretrain(options(runs[stream], "train.epochs=1", streams=(stream,)))
        ask(runs[stream], "linear", more=("baselines=false",))
    more = ("baselines=false", *(f"fusion.{stream}={folder}" for stream, folder in runs.items()))
    message = (
        f"--tasks fusion: {own}/results/linear.json: found no result of {{'seed': 0}}, expected one: score the task"
        " linear of that run"
    )
    for tasks in (("fusion",), ("fusion", "linear"), ("finetune", "fusion", "linear")):
        refused(message, own, *tasks, more=more)
    assert not (own / "results").exists()
    assert [row.task for row in ask(own, "linear", "fusion", more=more)] == ["linear", "fusion"]
    request = EvaluateOptions(run=own, tasks=("fusion",), overrides=SHORT, device="cpu")
    for ask_again in (evaluate, find_finished_scores):
        with pytest.raises(SkelstreamError, match=r"^--tasks fusion: --set fusion\.bone=RUN and fusion\.motion=RUN"):
            ask_again(request)


def test_a_share_of_the_labels_without_a_sample_is_refused_and_told_by_all(own: Path) -> None:
    message = "label fraction: found 0.01 of 32 samples, which is none, expected one"
    refused(f"--tasks semi: {message}", own, "semi", more=("semi.fractions=[0.01,0.5]",))
    request = EvaluateOptions(run=own, tasks=("all",), overrides=("semi.fractions=[0.01,0.5]",), device="cpu")
    assert find_omitted_tasks(request)["semi"] == message
    refused(
        "--tasks semi: semi.fractions: found [0.5, 0.5], expected each once",
        *(own, "semi"),
        more=("semi.fractions=[0.5,0.5]",),
    )


def test_a_share_of_the_labels_without_a_class_tells_which(own: Path) -> None:
    more = ("semi.fractions=[0.1]", 'semi.sampling=["unstratified"]', "baselines=false")
    (row,) = ask(own, "semi", more=more)
    assert row.details["samples"] == 3
    missing = row.details["missing_classes"]
    assert isinstance(missing, list)
    assert 57 <= len(missing) <= 58


def test_a_share_of_the_labels_with_one_class_alone_is_refused_and_told_by_all(own: Path) -> None:
    more = ("semi.fractions=[0.5,0.05]", 'semi.sampling=["stratified","unstratified"]')
    request = EvaluateOptions(run=own, tasks=("all",), overrides=(*SHORT, *more), device="cpu")
    reason = find_omitted_tasks(request)["semi"]
    assert re.fullmatch(
        r"unstratified label fraction 0\.05, draw 0: ntu60 xview: found training samples of class \d+ alone, expected"
        r" two classes or more",
        reason,
    )
    refused(f"--tasks semi: {reason}", own, "semi", more=more)


def test_the_command_line_tells_an_option_that_is_not_known(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["evaluate", str(own), "--tasks", "retrieval", "--plain", "--set", "retreival.k=[3]"])
    assert code == 1
    assert capsys.readouterr().err.strip() == (
        "skelstream: error: --set 'retreival.k=[3]': unknown key 'retreival.k';"
        " nearest: retrieval.k, retrieval.metric, repeats"
    )

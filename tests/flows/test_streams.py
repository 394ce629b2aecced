"""A run of several streams: one checkpoint with an encoder of each, scored one by one and fused without another run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from flows.build import build_encoder, open_views
from flows.config import read_config
from flows.evaluate import evaluate, find_finished_scores, open_bench
from flows.exchange.export import export
from flows.machine.room import check_evaluate
from flows.options import EvaluateOptions, LoaderOptions, PretrainOptions
from flows.pages.report import write_report
from flows.pages.sample.page import ViewRequest, write_view
from flows.pretrain import pretrain
from models.evaluation.class_scores import read_class_scores
from models.evaluation.features import Features, extract_features
from models.evaluation.results import TaskResult, read_results
from models.exchange.export import load_encoder
from models.training.checkpoint import encoder_state, latest_checkpoint, load_checkpoint
from models.training.runlog import read_log
from pipelines.loaders.split import open_split
from pipelines.views.downstream import evaluation_spec
from shards.errors import ConfigError, ShortageError
from shards.files import sha256_file
from shards.manifest import read_manifest
from shards.reader import read_index
from shards.skeleton import Stream
from tests.flows.reading import Page

Make = Callable[..., PretrainOptions]

STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")
WEIGHTS = {"joint": 0.6, "bone": 0.6, "motion": 0.4}
METHOD = "skeletonclr+tiny"
SHORT = ("linear.epochs=2", "linear.batch_size=16", "linear.crop=centre", "baselines=false")


def ask(run: Path, *tasks: str, stream: Stream | None = None, checkpoint: str | None = None) -> EvaluateOptions:
    return EvaluateOptions(run=run, tasks=tasks, stream=stream, checkpoint=checkpoint, overrides=SHORT, device="cpu")


@pytest.fixture(scope="module")
def trained(options: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three streams; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("streams") / "run"
    pretrain(options(folder, "train.probe_every=2", method=METHOD, streams=STREAMS))
    return folder


@pytest.fixture(scope="module")
def scored(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the linear scores of each stream; tests that change it take a copy."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("scored") / "run"))
    for stream in STREAMS:
        evaluate(ask(folder, "linear", stream=stream))
    return folder


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored, tmp_path / "run"))


def test_one_checkpoint_holds_an_encoder_of_each_stream(trained: Path) -> None:
    config = read_config(trained / "config.json")
    assert (config.data.streams, config.data.stream) == (STREAMS, "joint+bone+motion")
    names = [path.name for path in sorted((trained / "checkpoints").iterdir())]
    assert names == ["epoch_0001.pt", "epoch_0002.pt"]
    checkpoint = load_checkpoint(trained / "checkpoints" / names[-1])
    first, *others = (encoder_state(checkpoint, stream) for stream in STREAMS)
    for other in others:
        assert other.keys() == first.keys()
        assert not torch.equal(other["layers.0.importance"], first["layers.0.importance"])
    found = {name.split(".")[1] for name in checkpoint.objective if name.startswith("encoders.")}
    assert found == set(STREAMS)


def test_the_log_has_a_term_and_a_score_of_each_stream(trained: Path) -> None:
    first, last = read_log(trained)
    for line in (first, last):
        assert set(line["terms"]) == {f"contrast/{stream}" for stream in STREAMS}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
    assert "probe" not in first
    assert set(last["probe"]) == {f"retrieval/{stream}" for stream in STREAMS}
    assert all(0.25 < score <= 1 for score in last["probe"].values())


def test_a_run_of_several_streams_goes_on_to_the_bytes_of_an_undisturbed_one(
    trained: Path, options: Make, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    last = folder / "checkpoints" / "epoch_0002.pt"
    last.unlink()
    result = pretrain(options(folder, "train.probe_every=2", method=METHOD, streams=STREAMS, resume=True))
    assert result.checkpoint == last
    assert last.read_bytes() == (trained / "checkpoints" / "epoch_0002.pt").read_bytes()


def sides(run: Path, store: Path, stream: Stream, ratio: float) -> list[Features]:
    """Features of the train and the test side by the encoder of a stream, made without the flow under test."""
    config, path = read_config(run / "config.json"), latest_checkpoint(run)
    assert path is not None
    encoder = build_encoder(config, encoder_state(load_checkpoint(path), stream), stream)
    return [
        extract_features(
            encoder,
            open_views(
                open_split(store, "ntu60", "xview", side),
                evaluation_spec("centre", stream, config.views.frames, centre_ratio=ratio),
                LoaderOptions(),
                window=1,
                batch_size=7,
                seed=3,
                device=torch.device("cpu"),
                shuffle=False,
                drop_last=False,
            ).epoch(0),
        )
        for side in ("train", "test")
    ]


@pytest.mark.parametrize("stream", STREAMS)
def test_each_stream_is_scored_by_its_own_encoder_on_its_own_views(
    trained: Path, store: Path, tmp_path: Path, stream: Stream
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    request = ask(folder, "retrieval", stream=stream)
    (row,) = evaluate(request)
    assert row.stream == stream
    assert row.options["test_crop"] == "centre 1"
    probed = read_log(trained)[-1]["probe"][f"retrieval/{stream}"]
    for accuracy, ratio in ((row.scores["accuracy"], 1.0), (probed, 0.95)):
        gallery, query = sides(trained, store, stream, ratio)
        judge = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
        judge.fit(gallery.values.double().numpy(), gallery.label.numpy())
        assert accuracy == pytest.approx(judge.score(query.values.double().numpy(), query.label.numpy()))
    below = folder / "results" if stream == "joint" else folder / "results" / stream
    assert read_results(below / "retrieval.json") == [row] == find_finished_scores(request)
    assert list(folder.glob("results/**/retrieval.json")) == [below / "retrieval.json"]


def test_without_a_stream_named_the_first_one_is_scored(copy: Path) -> None:
    first = evaluate(ask(copy, "retrieval"))
    assert first[0].stream == "joint"
    assert find_finished_scores(ask(copy, "retrieval", stream="joint")) == first


def test_results_of_another_checkpoint_and_stream_lie_in_a_folder_of_their_own(copy: Path) -> None:
    (row,) = evaluate(ask(copy, "retrieval", stream="bone", checkpoint="epoch_0001.pt"))
    assert row.checkpoint_sha256 == sha256_file(copy / "checkpoints" / "epoch_0001.pt")
    assert read_results(copy / "results" / "epoch_0001" / "bone" / "retrieval.json") == [row]


def test_kept_features_of_another_stream_leave_no_room(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    evaluate(ask(folder, "retrieval"))
    monkeypatch.setattr("flows.machine.room.free_disk", lambda folder: 0)
    check_evaluate(open_bench(ask(folder, "retrieval")), ["retrieval"])
    with pytest.raises(ShortageError, match="features of 2 sides"):
        check_evaluate(open_bench(ask(folder, "retrieval", stream="bone")), ["retrieval"])


def test_an_untrained_encoder_is_that_of_the_stream(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    config = read_config(folder / "config.json")
    first, second = (build_encoder(config, None, stream).state_dict() for stream in ("joint", "bone"))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    request = ask(folder, "retrieval", stream="bone").model_copy(update={"overrides": ()})
    rows = evaluate(request)
    assert [row.subject for row in rows] == ["trained", "random encoder", "coordinates"]
    assert {row.stream for row in rows} == {"bone"}


@pytest.mark.parametrize("stream", ["bone", "motion"])
def test_a_stream_that_a_run_does_not_have_is_refused_with_those_it_has(run: Path, stream: Stream) -> None:
    with pytest.raises(ConfigError, match=f"^--stream {stream}: found a run of joint, expected one of these$"):
        evaluate(ask(run, "retrieval", stream=stream))


def fused(run: Path, first: Stream = "joint") -> tuple[TaskResult, dict[str, Features]]:
    """The result of the task fusion, and the class scores of each stream, whose first one lies above the others."""
    request = ask(run, "fusion", stream="joint")
    (row,) = evaluate(request)
    assert find_finished_scores(request) == [row]
    folders = {stream: run / "results" / ("" if stream == first else stream) for stream in STREAMS}
    path = Path("class-scores", "linear-trained-seed-0.npz")
    return row, {stream: read_class_scores(folder / path) for stream, folder in folders.items()}


def check(row: TaskResult, scores: dict[str, Features]) -> None:
    label = scores["joint"].label
    weighted = torch.stack([WEIGHTS[stream] * scores[stream].values.double() for stream in STREAMS]).sum(0)
    assert row.scores["accuracy"] == pytest.approx(float((weighted.argmax(1) == label).float().mean()))
    for stream in STREAMS:
        alone = float((scores[stream].values.argmax(1) == label).float().mean())
        assert row.scores[stream] == pytest.approx(alone)


def test_the_streams_of_one_run_are_fused_without_another_run_named(copy: Path) -> None:
    row, scores = fused(copy)
    check(row, scores)
    assert row.details["checkpoints"] == dict.fromkeys(STREAMS, sha256_file(copy / "checkpoints" / "epoch_0002.pt"))


def test_streams_are_fused_whatever_their_order_in_the_run(options: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(options(run, "train.epochs=1", method=METHOD, streams=("bone", "joint", "motion")))
    for stream in get_args(Stream):
        evaluate(ask(run, "linear", stream=stream))
    row, scores = fused(run, first="bone")
    check(row, scores)
    assert (run / "results" / "joint" / "fusion.json").is_file()


def test_streams_that_were_not_scored_are_not_fused(copy: Path) -> None:
    shutil.rmtree(copy / "results" / "motion")
    with pytest.raises(ConfigError, match=r"--tasks fusion: .*results/motion/linear\.json: found no result of"):
        evaluate(ask(copy, "fusion"))


def test_scores_of_an_earlier_checkpoint_are_not_fused_with_those_of_this_one(copy: Path) -> None:
    older = copy / "results" / "bone"
    shutil.rmtree(older)
    evaluate(ask(copy, "linear", stream="bone", checkpoint="epoch_0001.pt"))
    (copy / "results" / "epoch_0001" / "bone").rename(older)
    with pytest.raises(ConfigError, match=r"results/bone/linear\.json: found checkpoint_sha256 .*, expected "):
        evaluate(ask(copy, "fusion"))


def test_the_encoder_of_a_named_stream_is_exported_with_its_own_scores(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found encoders of joint, bone, motion, expected one of them by --stream"):
        export(copy, None, tmp_path / "export")
    card = (export(copy, None, tmp_path / "export", "motion") / "README.md").read_text()
    state = encoder_state(load_checkpoint(copy / "checkpoints" / "epoch_0002.pt"), "motion")
    loaded = load_encoder(tmp_path / "export").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    (row,) = read_results(copy / "results" / "motion" / "linear.json")
    assert card.startswith(f"# {METHOD} encoder, ntu60 xview, motion stream\n")
    assert card.count("| linear | ") == 1
    assert f"{100 * row.scores['accuracy']:.1f} %" in card
    assert "another checkpoint" not in card


def test_a_stage_of_the_terms_of_one_stream_leaves_the_encoders_of_the_others(options: Make, tmp_path: Path) -> None:
    stage = '[{"name": "bones", "epochs": 1, "terms": ["contrast/bone"]}]'
    run = tmp_path / "run"
    pretrain(options(run, f"train.stages={stage}", "train.epochs=1", method=METHOD, streams=("joint", "bone")))
    main, end = (load_checkpoint(run / "checkpoints" / f"epoch_000{number}.pt") for number in (1, 2))
    for stream, moved in (("joint", False), ("bone", True)):
        before, after = encoder_state(main, stream), encoder_state(end, stream)
        names = [name for name in before if name.endswith("importance")]
        assert names
        assert all(torch.equal(after[name], before[name]) is not moved for name in names)


def test_the_report_and_the_page_of_a_sample_show_every_stream(copy: Path, store: Path, tmp_path: Path) -> None:
    page = write_report([copy], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{METHOD} on ntu60 xview, joint+bone+motion" in page
    for stream in STREAMS:
        (row,) = read_results(copy / "results" / ("" if stream == "joint" else stream) / "linear.json")
        assert f"{100 * row.scores['accuracy']:.1f} %" in page
        assert f"contrast/{stream}" in page
    key = read_index(store / read_manifest(store).shards[0].path).keys[0]
    shown = Page(write_view(ViewRequest(store, key, str(copy)), tmp_path / "view.html").read_text(encoding="utf-8"))
    views = [(view["title"], view["stream"]) for view in shown.viewer["views"]]
    assert views == [
        *(("query", "joint"), ("query/joint", "joint"), ("query/bone", "bone"), ("query/motion", "motion")),
        *(("key", "joint"), ("key/joint", "joint"), ("key/bone", "bone"), ("key/motion", "motion")),
    ]


@pytest.mark.parametrize("method", ["pcm3pp+tiny", "pcm3+tiny", "mamp+tiny", "skeleton-mae+tiny"])
@pytest.mark.parametrize("gpus", [None, 2])
def test_several_streams_of_a_method_of_one_are_refused_before_training(
    options: Make, tmp_path: Path, method: str, gpus: int | None
) -> None:
    message = f"views .*: found the streams {', '.join(STREAMS)}, expected one"
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path / "run", method=method, streams=STREAMS, gpus=gpus))
    assert not (tmp_path / "run").exists()


def test_a_stream_given_twice_is_refused(options: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.streams is bone, bone, expected each once"):
        pretrain(options(tmp_path / "run", method=METHOD, streams=("bone", "bone")))
    assert not (tmp_path / "run").exists()

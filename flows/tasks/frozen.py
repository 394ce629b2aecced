"""Tasks on the features of a frozen encoder."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from flows.config import read_config
from flows.tasks.bench import Bench, Scored, Subject, curve_details, objection, repeats
from flows.tasks.config import EvaluateConfig
from models.evaluation.class_scores import read_class_scores, write_class_scores
from models.evaluation.episodes import Episodes, draw_episodes, write_episodes
from models.evaluation.features import Features
from models.evaluation.few_shot import FewShotConfig, FewShotResult, few_shot
from models.evaluation.fusion import STREAMS, fuse
from models.evaluation.heads import LinearHead
from models.evaluation.linear import EncodedViews, LinearConfig, LinearResult, linear_evaluation, score
from models.evaluation.metrics import accuracies, accuracy_by_group, calibration, length_group, top_k_accuracy
from models.evaluation.results import Setting, TaskResult, read_results
from models.evaluation.retrieval import retrieval
from pipelines.loaders.labels import SampleFacts
from pipelines.views.downstream import occluded_spec, up_axis
from pipelines.views.spec import ViewSpec
from shards.errors import ConfigError, SkelstreamError, StoreError
from shards.sources import Side


def find_head_obstacle(bench: Bench) -> str | None:
    """Why no head on the features can be worth anything, if so."""
    return objection(bench.check_layer) or objection(bench.absent_classes)


def linear_settings(options: EvaluateConfig) -> list[Setting]:
    return repeats(options.linear.seed, options)


def linear(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """A linear layer on frozen features, and an analysis of what it says of the test split."""
    result = _train(bench, subject, int(setting["seed"]))
    test = bench.features("test", subject)
    scores = Features(result.logits, test.label.cpu(), test.sample_id.cpu())
    write_class_scores(class_scores_path(bench.source.results, "linear", subject, setting), scores)
    numbers: dict[str, float | int] = {
        "accuracy": result.last,
        "best": result.best,
        "top5": top_k_accuracy(result.logits, scores.label, min(5, bench.benchmark.num_classes)),
    }
    if result.chosen is not None:
        numbers["chosen"] = result.chosen
    details = {
        **curve_details(result),
        "per_class": list(result.per_class),
        **bench.absent_classes(),
        **analysis(scores, bench.benchmark.facts("test")),
    }
    return Scored(numbers, details)


def class_scores_path(results: Path, task: str, subject: Subject, setting: Setting) -> Path:
    """Where a row's class scores lie."""
    row = "-".join(f"{name}-{value}" for name, value in setting.items())
    return results / "class-scores" / f"{task}-{subject.replace(' ', '-')}-{row}.npz"


def _train(bench: Bench, subject: Subject, seed: int) -> LinearResult:
    return bench.once(("linear", subject, seed), lambda: _train_linear(bench, subject, seed))


def _train_linear(bench: Bench, subject: Subject, seed: int) -> LinearResult:
    options = bench.options.linear.model_copy(update={"seed": seed})
    kept, validation = bench.training(subject) if options.crop == "centre" or bench.options.validation else (None, None)
    train = kept if kept is not None and options.crop == "centre" else _random_crops(bench, subject, options)
    return linear_evaluation(
        train,
        bench.features("test", subject),
        options,
        bench.benchmark.num_classes,
        validation=validation,
        device=bench.device,
        progress=bench.progress,
    )


def _random_crops(bench: Bench, subject: Subject, options: LinearConfig, spec: ViewSpec | None = None) -> EncodedViews:
    views = bench.benchmark.views(
        "train",
        bench.spec("random") if spec is None else spec,
        options.batch_size,
        shuffle=True,
        seed=options.seed,
        ids=None if bench.held_out is None else bench.held_out[0],
    )
    encoder, projector = bench.reading(subject)
    return EncodedViews(encoder, views, bench.options.layer, projector)


def analysis(scores: Features, facts: SampleFacts) -> dict[str, Any]:
    """Calibration, and accuracy by subject, camera and length; groups that the source does not tell are left out."""
    assert np.array_equal(scores.sample_id.numpy(), facts.sample_id), "class scores and facts in different orders"
    predicted = scores.values.argmax(dim=1)
    groups = {
        "subject": torch.from_numpy(facts.subject),
        "camera": torch.from_numpy(facts.camera),
        "length": length_group(torch.from_numpy(facts.length)),
    }
    return {
        "calibration": to_jsonable_python(asdict(calibration(scores.values, scores.label))),
        **{
            f"by_{name}": _by_group(predicted, scores.label, group)
            for name, group in groups.items()
            if (group >= 0).all()
        },
    }


def _by_group(predicted: Tensor, label: Tensor, group: Tensor) -> dict[str, dict[str, float | int]]:
    found = accuracy_by_group(predicted, label, group)
    return {str(name): {"accuracy": accuracy, "samples": count} for name, (accuracy, count) in found.items()}


def one_row(options: EvaluateConfig) -> list[Setting]:
    return [{}]


def find_retrieval_obstacle(bench: Bench) -> str | None:
    """Why there is nothing to retrieve, if so."""
    reason = objection(bench.check_layer) or objection(bench.benchmark.absent_classes)
    if reason is not None:
        return reason
    gallery, most = len(bench.benchmark.facts("train")), bench.options.retrieval.k[-1]
    return f"retrieval.k is {most}, expected at most the {gallery} training samples" if most > gallery else None


def retrieve(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The classes of the nearest training samples."""
    # 1-NN on coordinates is by Euclidean distance, which is what "nearest" means for points in metres
    options = bench.options.retrieval
    if subject == "coordinates":
        options = options.model_copy(update={"metric": "euclidean"})
    result = retrieval(
        bench.features("train", subject), bench.features("test", subject), options, bench.benchmark.num_classes
    )
    numbers: dict[str, float | int] = {"accuracy": result.accuracy}
    numbers |= {f"accuracy@{k}": value for k, value in zip(options.k, result.accuracy_at, strict=True) if k > 1}
    if result.mean_average_precision is not None:
        numbers["mAP"] = result.mean_average_precision
    details = {"per_class": list(result.per_class), "unmatched": result.unmatched}
    return Scored(numbers, {**details, **bench.benchmark.absent_classes()})


def find_fusion_obstacle(bench: Bench) -> str | None:
    """Why streams cannot be fused, if so."""
    named = bench.options.fusion
    if bench.benchmark.stream != "joint":
        return f"the run is of the stream {bench.benchmark.stream}, expected joint"
    if _has_all_streams(bench):
        return find_head_obstacle(bench)
    if named.bone is None or named.motion is None:
        return "--set fusion.bone=RUN and fusion.motion=RUN, the runs of the other streams, are not given"
    return find_head_obstacle(bench)


def find_fusion_wait(bench: Bench, before: Collection[str]) -> str | None:
    """Which class scores are not there yet, if so; those of this run the task linear leaves, where it comes before."""
    try:
        for stream in STREAMS[1:] if "linear" in before else STREAMS:
            _class_scores(bench, stream)
    except SkelstreamError as error:
        return str(error)
    return None


def fusion(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The class scores of three runs, one a stream, added up."""
    result = fuse({stream: _class_scores(bench, stream) for stream in STREAMS}, bench.benchmark.num_classes)
    details = {
        "per_class": list(result.weighted_per_class),
        "equal_per_class": list(result.equal_per_class),
        **fused_checkpoints(bench),
    }
    return Scored({"accuracy": result.weighted, "equal": result.equal, **result.alone}, details)


def _class_scores(bench: Bench, stream: str) -> Features:
    """Those that the linear task of a stream's run has left.

    Raises:
        ConfigError: the run is of other data, or was not scored as this evaluation would.
        StoreError: they are not there, or not those of the result beside them.
    """
    setting, folder = linear_settings(bench.options)[0], _folders_of_streams(bench)[stream]
    if stream != STREAMS[0] and not _has_all_streams(bench):
        found, expected = read_config(folder.parent / "config.json").data, bench.config.data
        if (found.dataset, found.protocol, found.stream) != (expected.dataset, expected.protocol, stream):
            raise ConfigError(
                f"{folder.parent}: found a run on {found.dataset} {found.protocol} {found.stream}, expected"
                f" {expected.dataset} {expected.protocol} {stream}"
            )
    row, path = (
        _linear_row(bench, folder / "linear.json", setting),
        class_scores_path(folder, "linear", "trained", setting),
    )
    scores = read_class_scores(path)
    accuracy, _ = accuracies(scores.values.argmax(dim=1), scores.label, bench.benchmark.num_classes)
    if accuracy != row.scores["accuracy"]:
        raise StoreError(
            f"{path}: found class scores of accuracy {accuracy}, expected {row.scores['accuracy']} as in linear.json:"
            " delete that and score the task linear again"
        )
    return scores


def _has_all_streams(bench: Bench) -> bool:
    """Whether the run has an encoder of each stream itself."""
    return set(STREAMS) <= set(bench.config.data.streams)


def _folders_of_streams(bench: Bench) -> dict[str, Path]:
    """Of this run's own streams, and of those whose runs are named."""
    if _has_all_streams(bench):  # the results of the first one lie above those of the others
        first, above = bench.config.data.streams[0], bench.source.results
        if first != bench.benchmark.stream:
            above = above.parent
        return {stream: above if stream == first else above / stream for stream in STREAMS}
    others = {stream: getattr(bench.options.fusion, stream) for stream in STREAMS[1:]}
    named = {stream: folder / "results" for stream, folder in others.items() if folder is not None}
    return {STREAMS[0]: bench.source.results, **named}


def fused_checkpoints(bench: Bench) -> dict[str, Any]:
    """By which checkpoints the class scores were made that lie in the three runs now."""
    setting = linear_settings(bench.options)[0]
    rows = {stream: _trained(folder / "linear.json", setting) for stream, folder in _folders_of_streams(bench).items()}
    return {"checkpoints": {stream: row and row.checkpoint_sha256 for stream, row in rows.items()}}


def _trained(path: Path, setting: Setting) -> TaskResult | None:
    """Of a file of results, that of the trained encoder."""
    rows = read_results(path) if path.is_file() else []
    return next((row for row in rows if row.subject == "trained" and row.setting == setting), None)


def _linear_row(bench: Bench, path: Path, setting: Setting) -> TaskResult:
    """The result whose class scores lie in a folder; scored as this run's linear task would be, on the same data."""
    row = _trained(path, setting)
    if row is None:
        raise ConfigError(f"{path}: found no result of {setting}, expected one: score the task linear of that run")
    options = bench.options
    names = ("layer", "degrees", "validation")
    expected = {**options.linear.model_dump(mode="json"), **{name: getattr(options, name) for name in names}}
    expected["test_crop"] = f"centre {options.centre_ratio:g}"
    expected["fingerprint"] = bench.benchmark.manifest.fingerprint
    found = {**row.options, "fingerprint": row.fingerprint}
    if _has_all_streams(bench) or path.parent == bench.source.results:
        expected["checkpoint_sha256"], found["checkpoint_sha256"] = bench.source.sha256, row.checkpoint_sha256
    for name, value in expected.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path}: found {name} {found.get(name)!r}, expected {value!r} as in this evaluation: score the task"
                " linear of that run so"
            )
    return row


def occluded_settings(options: EvaluateConfig) -> list[Setting]:
    return [{"occlusion": kind, "head": head} for kind in options.occluded.kinds for head in ("clean", "occluded")]


def occluded(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The linear protocol on occluded test data, its head trained on clean or on occluded data."""
    kind = next(kind for kind in bench.options.occluded.kinds if kind == setting["occlusion"])
    masks = {side: bench.source.results / "occlusion" / f"{side}-{kind}.npz" for side in ("train", "test")}
    bench.once(("occlusion", kind), lambda: _store_masks(bench, kind, masks))
    test = bench.encoded(subject, "test", _occluded_spec(bench, masks["test"], "centre"))
    seed = bench.options.linear.seed
    if setting["head"] == "clean":
        head = _train(bench, subject, seed).head
        return _by_head(bench, head, test)
    result = _train_occluded(bench, subject, test, masks["train"])
    return Scored(
        {"accuracy": result.last, "best": result.best},
        {
            **curve_details(result),
            "per_class": list(result.per_class),
            **bench.absent_classes(),
        },
    )


def _occluded_spec(bench: Bench, masks: Path, crop: Literal["centre", "random"]) -> ViewSpec:
    benchmark, options = bench.benchmark, bench.options
    return occluded_spec(
        masks,
        benchmark.stream,
        benchmark.frames,
        crop=crop,
        centre_ratio=options.centre_ratio,
        degrees=options.degrees,
    )


def _store_masks(bench: Bench, kind: Any, masks: Mapping[str, Path]) -> None:
    """Masks are a function of seed and sample id alone: every checkpoint of a benchmark sees the same."""
    sides: tuple[Side, Side] = ("train", "test")
    for side in sides:
        masks[side].parent.mkdir(parents=True, exist_ok=True)
        ids = torch.from_numpy(bench.benchmark.facts(side).sample_id)
        bench.options.occluded.store(masks[side], kind, ids, bench.benchmark.frames)


def _train_occluded(bench: Bench, subject: Subject, test: Features, masks: Path) -> LinearResult:
    options, benchmark = bench.options.linear, bench.benchmark
    spec = _occluded_spec(bench, masks, options.crop)
    train: Features | EncodedViews
    if options.crop == "random":
        train = _random_crops(bench, subject, options, spec)
    else:
        train = bench.encoded(subject, "train", spec)
        if bench.held_out is not None:
            train = train.only(bench.held_out[0])
    return linear_evaluation(train, test, options, benchmark.num_classes, device=bench.device, progress=bench.progress)


def find_few_shot_obstacle(bench: Bench) -> str | None:
    """Why no episode can be drawn, if so."""
    few = bench.options.few_shot.model_copy(update={"episodes": 2})
    return objection(bench.check_layer) or objection(lambda: _draw_episodes(bench, few))


def few_shot_settings(options: EvaluateConfig) -> list[Setting]:
    return [{"shots": shots} for shots in options.few_shot.shots]


def few_shots(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """Episodes of few labelled samples."""
    results = bench.once(("few shot", subject), lambda: _few_shot(bench, subject))
    result = next(found for found in results if found.shots == setting["shots"])
    return Scored({"accuracy": result.accuracy, "interval": result.interval}, {"per_episode": list(result.per_episode)})


def _few_shot(bench: Bench, subject: Subject) -> tuple[FewShotResult, ...]:
    options = bench.options.few_shot
    features = [bench.features(side, subject) for side in _pool(options)]
    columns = (torch.cat(column) for column in zip(*(vars(part).values() for part in features), strict=True))
    episodes = bench.once("episodes", lambda: _store_episodes(bench))
    return few_shot(Features(*columns), episodes, options, progress=bench.progress)


def _store_episodes(bench: Bench) -> Episodes:
    """Episodes are a function of options, ids and labels: every checkpoint of a benchmark is scored on the same."""
    episodes = _draw_episodes(bench, bench.options.few_shot)
    write_episodes(bench.source.results / "episodes.npz", episodes)
    return episodes


def _draw_episodes(bench: Bench, options: FewShotConfig) -> Episodes:
    benchmark, sides = bench.benchmark, _pool(options)
    facts = [benchmark.facts(side) for side in sides]
    ids, label = (torch.from_numpy(np.concatenate([getattr(f, c) for f in facts])) for c in ("sample_id", "label"))
    try:
        return draw_episodes(ids, label, options, benchmark.dataset)
    except ConfigError as error:
        raise ConfigError(f"{benchmark.dataset} {benchmark.protocol} {' and '.join(sides)}: {error}") from error


def _pool(options: FewShotConfig) -> tuple[Side, ...]:
    return ("train", "test") if options.pool == "all" else ("test",)


def robustness_settings(options: EvaluateConfig) -> list[Setting]:
    levels = options.robustness.specs("joint", up="y")
    rows: list[Setting] = [{"curve": curve, "level": level} for curve, views in levels.items() for level in views]
    return [{"curve": "clean", "level": 0.0}, *rows]


def robustness(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """A head trained on clean data and scored on degraded data."""
    benchmark, options = bench.benchmark, bench.options.robustness
    spec = bench.spec("centre")
    if setting["curve"] != "clean":
        specs = options.specs(
            benchmark.stream,
            benchmark.frames,
            up=up_axis(benchmark.manifest.recipe_steps),
            centre_ratio=bench.options.centre_ratio,
        )
        views = next(views for curve, views in specs.items() if curve == setting["curve"])
        spec = views[float(setting["level"])]
    return _by_clean_head(bench, subject, spec, options.seed)


def early_settings(options: EvaluateConfig) -> list[Setting]:
    return [{"seen": ratio} for ratio in options.early.ratios]


def early(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """A head trained on whole actions and scored on their beginnings."""
    specs = bench.options.early.specs(bench.benchmark.stream, bench.benchmark.frames)
    return _by_clean_head(bench, subject, specs[float(setting["seen"])], 0)


def _by_clean_head(bench: Bench, subject: Subject, spec: ViewSpec, seed: int) -> Scored:
    test = bench.encoded(subject, "test", spec, seed=seed)
    return _by_head(bench, _train(bench, subject, bench.options.linear.seed).head, test)


def _by_head(bench: Bench, head: LinearHead, test: Features) -> Scored:
    predicted = score(head, test.values.cpu()).argmax(dim=1)
    accuracy, per_class = accuracies(predicted, test.label.cpu(), bench.benchmark.num_classes)
    return Scored({"accuracy": accuracy}, {"per_class": list(per_class), **bench.absent_classes()})

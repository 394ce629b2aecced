"""What a trained run makes of one sample: what it predicts of hidden joints, and which training samples are nearest."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.config import PretrainConfig
from flows.pages.player import MIXED
from flows.pages.report.features import features_of, open_bench
from flows.pages.report.neighbours import find_nearest
from flows.pages.report.pool import Pool, read_items
from flows.pages.report.prediction import predictions
from flows.pages.web import encode_bytes
from flows.run_folder import read_run
from flows.tasks.bench import Bench
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from pipelines.loaders.sample import STAND_IN, Found
from pipelines.loaders.split import SOURCE_BIT
from shards.catalog import class_names
from shards.errors import SkelstreamError, StoreError


@dataclass(frozen=True)
class Group:
    """Sequences side by side under a heading.

    Attributes:
        words: what is shown, or why nothing is.
        sequences: as of flows/pages/web/player.js.
        hidden, mixed: what the legend calls joints of these states.
    """

    title: str
    words: str
    sequences: list[dict[str, Any]] = field(default_factory=list)
    hidden: str = ""
    mixed: str = ""


def run_groups(run: Path, config: PretrainConfig, found: Found) -> list[Group]:
    """Prediction and neighbours of a sample by the last checkpoint of a run; nothing before it has saved one.

    Args:
        run: its folder.
        config: of the run.
        found: the sample, of the store that the run has learned from.

    Returns:
        The groups; one that cannot be shown says why in its words.
    """
    if latest_checkpoint(run) is None:
        return []
    number = found.number & ((1 << SOURCE_BIT) - 1)
    groups = []
    for title, make in (("Masked and predicted", _prediction), ("Nearest training samples", _neighbours)):
        try:
            groups.append(make(title, _bench(run, config, found), found, number))
        except SkelstreamError as error:
            groups.append(Group(title, str(error)))
    return groups


def _bench(run: Path, config: PretrainConfig, found: Found) -> Bench:
    bench = open_bench(run, config, read_run(run))
    if bench.benchmark.manifest.fingerprint != found.manifest.fingerprint:
        raise StoreError(f"{found.folder}: found another store, expected the one that {run} has learned from")
    return bench


def _side(bench: Bench, found: Found) -> Any:
    name = f"{bench.benchmark.dataset}/{bench.benchmark.protocol}"
    if name not in found.memberships:
        raise StoreError(f"{found.index.keys[found.row]}: found in no side of {name}, expected in train or test")
    return found.memberships[name]


def _prediction(title: str, bench: Bench, found: Found, number: int) -> Group:
    side, benchmark = _side(bench, found), bench.benchmark
    facts_of = benchmark.facts(side)
    # a mix, which nothing here shows, takes its partner from the batch
    others = [int(one) for one in facts_of.sample_id[:STAND_IN] if one != number]
    items = read_items(benchmark.split(side), facts_of, np.array(sorted([number, *others])))
    items.sort(key=lambda item: item.sample_id != number)
    told, *_ = predictions(bench.config, load_checkpoint(bench.source.checkpoint), items)
    facts = {"persons": told["bodies"], **{name: told[name] for name in ("count", "at", "of", "stream")}}
    facts |= {"still": told["still"]} if "still" in told else {}
    state = np.frombuffer(base64.b64decode(told["hidden"]), np.uint8) * MIXED
    error = "" if told["error"] is None else f", {told['error']} cm beside the truth on average"
    return Group(
        title,
        f"{told['share']:.0%} of the joints are hidden, as the run draws it in its first epoch; its decoder predicts "
        f"them{error}. A straight line in time would be {told['line']} cm beside it.",
        [
            {**facts, "title": "what the encoder sees", "data": told["truth"], "ghost": told["truth"]}
            | {"state": told["hidden"]},
            {**facts, "title": "predicted", "data": told["predicted"], "state": encode_bytes(state)},
            {**facts, "title": "truth", "data": told["truth"]},
        ],
        hidden="hidden from the encoder, drawn where it is",
        mixed="predicted",
    )


def _neighbours(title: str, bench: Bench, found: Found, number: int) -> Group:
    side, benchmark = _side(bench, found), bench.benchmark
    if bench.kept("train", "trained") is None:
        return Group(title, "No features of this checkpoint are kept yet: skelstream evaluate keeps them.")
    near = find_nearest(bench, "trained", features_of(bench, side, "trained", np.array([number])), seed=0)
    assert near is not None
    pool = Pool(benchmark.manifest)
    pool.add(benchmark.split(side), benchmark.facts(side), near.query)
    pool.add(benchmark.split("train"), benchmark.facts("train"), near.ids[0])
    samples, names = pool.as_json()["samples"], class_names(benchmark.dataset)
    own = samples[str(number)]

    def sequence(sample: dict[str, Any], **facts: Any) -> dict[str, Any]:
        shown = {"count": sample["count"], "persons": sample["bodies"], "data": sample["data"]}
        return {"caption": names[sample["label"]], "lines": [sample["key"]], **shown, **facts}

    sequences = [sequence(own, title="this sample")]
    for row, similarity in near.of(number):
        sample = samples[str(int(row))]
        tone = "right" if sample["label"] == own["label"] else "wrong"
        sequences.append(sequence(sample, title=f"similarity {similarity:.3f}", tone=tone))
    itself = " A training sample is nearest to itself." if side == "train" else ""
    return Group(title, f"By the cosine of their features, of {near.searched:,} training samples.{itself}", sequences)

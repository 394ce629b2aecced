"""Features of some samples of a run: those that evaluations have kept, else extracted; nothing is written."""

from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flows.config import PretrainConfig
from flows.options import LoaderOptions
from flows.run_folder import RunRecord
from flows.tasks.bench import Bench, Benchmark, Source, Subject
from flows.tasks.official import official
from models.evaluation.features import Features, coordinate_features, extract_features
from models.training.checkpoint import latest_checkpoint
from shards.errors import CheckpointError, StoreError
from shards.files import sha256_file
from shards.manifest import find_store
from shards.places import place
from shards.sources import Side

Ids = npt.NDArray[np.int64]


def open_bench(run: Path, config: PretrainConfig, record: RunRecord) -> Bench:
    """The last checkpoint of a run on its own store, as tasks see it by default; on the CPU, so that a page never waits
    for the GPU that trains.

    Raises:
        CheckpointError: there is no checkpoint.
        StoreError: the store is not there any more, or is another one by now.
    """
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: found no checkpoint, expected a run that has saved one")
    folder = find_store(place(record.store), config.data.dataset)
    benchmark = Benchmark.of_run(config, folder, LoaderOptions(loader="stream", workers=0), torch.device("cpu"))
    found = benchmark.manifest.fingerprint
    if found != record.fingerprint:
        raise StoreError(f"{folder}: found fingerprint {found}, expected {record.fingerprint} of {run}")
    source = Source(record.fingerprint, checkpoint, sha256_file(checkpoint), run / "results")
    return Bench(run, config, official(config.objective.encoder.family), benchmark, source, progress=False)


def features_of(bench: Bench, side: Side, subject: Subject, ids: Ids) -> Features:
    """Centre-crop features (n, D) of some samples of a side, in stored order.

    Raises:
        CheckpointError, ConfigError, StoreError: as `Bench.features`.
    """
    found = bench.kept(side, subject)
    return _extracted(bench, side, subject, ids) if found is None else found.only(ids)


def _extracted(bench: Bench, side: Side, subject: Subject, ids: Ids) -> Features:
    benchmark = bench.benchmark
    with closing(benchmark.views(side, bench.spec("centre"), bench.options.batch_size, ids=ids)) as views:
        if subject == "coordinates":
            return coordinate_features(views.epoch(0))
        encoder, projector = bench.reading(subject)
        return extract_features(encoder, views.epoch(0), layer=bench.options.layer, projector=projector)

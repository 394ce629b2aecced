"""What need not be made again: finished runs, results, features and stores, by identity; and what that saves."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from flows.config import PretrainConfig, read_config
from flows.run_folder import read_import, read_run
from models.evaluation.results import TaskResult
from models.training.checkpoint import latest_checkpoint, read_header
from models.training.runlog import read_log
from pipelines.conversion.convert import ConvertResult
from shards.amounts import describe_bytes, describe_duration
from shards.errors import CheckpointError, ConfigError


def identity(config: PretrainConfig, fingerprints: Sequence[str]) -> str:
    """The name of all that a run's parameters depend on: 64 hex digits.

    Args:
        config: resolved.
        fingerprints: of the stores of all its sources, in their order.
    """
    tree = {"config": config.model_dump(mode="json"), "fingerprints": list(fingerprints)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_run(runs: Path, config: PretrainConfig, fingerprints: Sequence[str]) -> Path | None:
    """A complete run of this identity directly below `runs`, whatever its name; of several the first by name."""
    if not runs.is_dir():
        return None
    folders = sorted(path for path in runs.iterdir() if (path / "config.json").is_file())
    return next((run for run in folders if is_complete(run, config, fingerprints)), None)


def is_complete(run: Path, config: PretrainConfig, fingerprints: Sequence[str]) -> bool:
    """Whether the folder holds a finished run of this identity; False for what is no run, or cannot be read."""
    try:
        if read_config(run / "config.json") != config or read_import(run) is not None:
            return False
        record, path = read_run(run), latest_checkpoint(run)
        if (record.fingerprint, *record.also) != tuple(fingerprints) or path is None:
            return False
        return read_header(path, expect_fingerprint=fingerprints[0]).epoch == config.train.total_epochs
    except (ConfigError, CheckpointError):
        return False


def training_seconds(run: Path) -> float:
    """Seconds that the epochs of a run took, by its log."""
    return sum(float(line.get("seconds", 0)) for line in read_log(run))


def about_run(run: Path) -> str:
    """What a finished run saves, in one line."""
    return f"reused {run}: saves {len(read_log(run))} epochs, {describe_duration(training_seconds(run))} of training"


def about_results(results: Sequence[TaskResult]) -> str:
    """What stored results save, in one line."""
    tasks = ", ".join(dict.fromkeys(result.task for result in results))
    seconds = sum(result.seconds for result in results)
    return f"reused {len(results)} rows of {tasks}: saves {describe_duration(seconds)} of scoring"


def about_features(run: Path) -> str | None:
    """What features kept in a run's folder save, in one line; None where there are none."""
    files = [path for path in (run / "features").glob("*/*") if not path.parent.name.startswith(".")]
    if not files:
        return None
    return f"reused features in {run / 'features'}: {describe_bytes(sum(path.stat().st_size for path in files))}"


def about_store(result: ConvertResult) -> str:
    """What a store that is there saves, in one line."""
    size = describe_bytes(sum(file.bytes for file in result.manifest.files))
    return f"reused {result.folder}: saves converting {size} of store and shards"

"""`skelstream import-checkpoint`: a run, ready to be evaluated, from the weights that PCM3 or CMD released."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.config import DataConfig, PretrainConfig, check_protocol, read_config, validate_tree
from flows.options import ImportOptions
from flows.recipes import recipe
from flows.run_folder import IMPORT, ImportRecord, RunRecord, new_record, read_import, write_model, write_run
from models.exchange.released import Method, Released, read_released
from models.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from shards.files import sha256_file, whole_folder
from shards.manifest import find_store, read_manifest
from shards.places import place

REPOSITORIES: dict[Method, str] = {"pcm3": "JHang2020/PCM3", "cmd": "maoyunyao/CMD"}


def import_released(options: ImportOptions) -> str:
    """Write a run folder, all or nothing, or find that it is there already; returns what was read, for people.

    The run's fingerprint is that of the store it will be evaluated on: which data the weights were trained on, a
    released file does not say. Its configuration has the sizes that were found and otherwise the published values.

    Raises:
        CheckpointError: the file is not what it should be, see `models.exchange.released.read_released`.
        ConfigError: unknown protocol, or a run folder that holds something else.
        StoreError: no such store.
    """
    check_protocol(options.dataset, options.protocol)
    store = find_store(place(options.data), options.dataset)
    manifest = read_manifest(store)
    released = read_released(options.file, options.method, options.stream)
    config = _config(options, released)
    record = ImportRecord(
        repository=REPOSITORIES[options.method],
        file=options.file.name,
        sha256=sha256_file(options.file),
        stream=options.stream,
        epoch=released.epoch,
        lacks=released.lacks,
    )
    if not _finished(options.run, config, record):
        with whole_folder(options.run) as folder:
            _write(folder, config, record, new_record(store, manifest), released)
    return _summary(options.run, record, len(released.objective), manifest.recipe)


def _config(options: ImportOptions, released: Released) -> PretrainConfig:
    data = DataConfig(dataset=options.dataset, protocol=options.protocol, streams=(options.stream,))
    config = recipe("pcm3", data).model_copy(update={"method": options.method, "objective": released.config})
    if options.method == "cmd":  # its script: batch 64, lr 0.01, else the schedule of PCM3
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 64, "lr": 0.01})})
    return validate_tree(PretrainConfig, _tree(config), str(options.file))


def _write(folder: Path, config: PretrainConfig, record: ImportRecord, run: RunRecord, released: Released) -> None:
    write_run(folder, config, run)
    write_model(folder / IMPORT, record)
    checkpoint = Checkpoint(
        epoch=released.epoch or 0,
        step=0,
        epoch_steps=0,  # not known, so that no training takes it for a state of its own
        config=_tree(config.train),
        meta={
            "fingerprint": run.fingerprint,
            "recipe": run.recipe,
            "method": config.method,
            "config": _tree(config),
            "imported": _tree(record),
        },
        objective=released.objective,
        optimizer={},
    )
    save_checkpoint(folder, checkpoint, keep=1)


def _finished(run: Path, config: PretrainConfig, record: ImportRecord) -> bool:
    """Whether the folder holds this import, with whatever was evaluated since."""
    return (
        read_import(run) == record and latest_checkpoint(run) is not None and read_config(run / "config.json") == config
    )


def _summary(run: Path, record: ImportRecord, tensors: int, store_recipe: str) -> str:
    epoch = "an unknown number of" if record.epoch is None else str(record.epoch)
    lines = [
        f"{run}: {tensors} tensors of {record.repository}, {record.stream} stream, {epoch} epochs",
        f"store of recipe {store_recipe}; the released weights were trained on recipe pcm3",
    ]
    if record.lacks:
        lines.append(f"the file does not hold: {', '.join(record.lacks)}")
    return "\n".join(lines)


def _tree(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")

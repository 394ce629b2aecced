"""`skelstream export`: the encoder of a run as safetensors and ONNX, with a model card."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ConfigDict

from flows.config import PretrainConfig, first_difference, read_config, validated
from flows.options import LocalPath
from flows.run_folder import RunRecord, read_import, read_run
from flows.scores.summary import lines, stored, subjects
from models.encoders.gru import GRUEncoder
from models.exchange.export import FILE, Provenance, encoder_from_state, write_encoder
from models.exchange.onnx_graph import encoder_model
from models.training.checkpoint import Checkpoint, encoder_state, latest_checkpoint, load_checkpoint
from pipelines.preprocessing.recipes import recipe
from shards.catalog import dataset
from shards.errors import CheckpointError
from shards.files import sha256_file, whole_folder, write_atomic
from shards.frozen import Frozen
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

ONNX = "encoder.onnx"
CARD = "README.md"


class ExportOptions(Frozen):
    """Which run to export."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run: LocalPath
    """Folder of a pre-training run."""

    checkpoint: LocalPath | None = None
    """One of its checkpoints; without it the last."""

    out: LocalPath | None = None
    """New or empty folder, or one that holds this very export; without it `export` in the run's."""


def export(run: Path, checkpoint: Path | None, out: Path) -> Path:
    """Write encoder.safetensors, encoder.onnx, README.md and config.json into `out`, all or nothing. Returns `out`.

    The same run gives the same bytes. Scores of the card are those in the run folder that belong to this checkpoint.

    Args:
        run: folder of a pre-training run.
        checkpoint: one of its checkpoints; None for the last.
        out: new or empty folder, or one that holds this very export.

    Raises:
        ConfigError: `run` holds no run, or `out` holds something else.
        CheckpointError: no checkpoint, a damaged one, or one of another run.
    """
    config, record = read_config(run / "config.json"), read_run(run)
    path = checkpoint or latest_checkpoint(run)
    if path is None:
        raise CheckpointError(f"{run}: found no checkpoint, expected a run that has saved one")
    loaded = load_checkpoint(path, expect_fingerprint=record.fingerprint)
    _check_same_run(path, loaded, config)
    encoder = encoder_from_state(config.objective.encoder, encoder_state(loaded), str(path)).eval()
    provenance = Provenance(
        stream=config.data.stream, frames=config.views.frames, recipe=record.recipe, fingerprint=record.fingerprint
    )
    with whole_folder(out) as folder:
        write_encoder(folder / FILE, encoder, provenance)
        write_atomic(folder / ONNX, _onnx(encoder, provenance))
        write_atomic(folder / "config.json", (run / "config.json").read_bytes())
        write_atomic(folder / CARD, _card(run, path, config, record, loaded).encode())
    return out


def _check_same_run(path: Path, checkpoint: Checkpoint, config: PretrainConfig) -> None:
    before = validated(PretrainConfig, checkpoint.meta.get("config", {}), str(path))
    # a run may have been given more epochs since
    difference = first_difference(before.model_copy(update={"train": config.train}), config)
    if difference is not None:
        raise CheckpointError(f"{path}: found a checkpoint of another run: {difference}, expected one of this run")


def _onnx(encoder: GRUEncoder, provenance: Provenance) -> bytes:
    facts = {name: str(value) for name, value in provenance.model_dump().items()}
    return encoder_model(encoder.config, encoder.state_dict(), encoder.input_norm.eps, facts)


def _card(run: Path, path: Path, config: PretrainConfig, record: RunRecord, checkpoint: Checkpoint) -> str:
    sha256 = sha256_file(path)
    folders = (run / "results", *sorted((run / "results").glob("epoch_*/")))
    results = [result for folder in folders for result in stored(folder)]
    own = [result for result in results if result.checkpoint_sha256 in (sha256, None)]
    scores = lines(own)
    # a card is Markdown: nothing to escape
    environment = Environment(
        loader=PackageLoader("flows.pages"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md").render(
        config=config,
        record=record,
        checkpoint=checkpoint,
        name=path.name,
        sha256=sha256,
        imported=read_import(run),
        steps=recipe(record.recipe, dataset(config.data.dataset).source).steps,
        lines=scores,
        subjects=subjects(scores),
        other_scores=len(results) - len(own),
        encoder=config.objective.encoder,
        features=2 * config.objective.encoder.hidden,
        entries=NUM_JOINTS * NUM_COORDINATES * NUM_PERSONS,
        parameters=sum(tensor.numel() for tensor in encoder_state(checkpoint).values() if tensor.is_floating_point()),
        tree=config.model_dump_json(indent=2),
    )

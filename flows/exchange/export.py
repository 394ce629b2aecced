"""`skelstream export`: the encoder of a run as safetensors and ONNX, with a model card."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.config import PretrainConfig, first_difference, read_config, validate_tree
from flows.run_folder import RunRecord, read_import, read_run
from flows.scores.summary import lines, read_stored, subjects
from models.encoders.encoder import Encoder
from models.exchange.export import FILE, Provenance, encoder_from_state, write_encoder
from models.exchange.onnx_model import encoder_model
from models.training.checkpoint import Checkpoint, encoder_state, latest_checkpoint, load_checkpoint
from pipelines.preprocessing.recipes import recipe
from shards.catalog import dataset
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file, whole_folder, write_atomic
from shards.skeleton import FRAME_SIZE, Stream

ONNX = "encoder.onnx"
CARD = "README.md"


def export(run: Path, checkpoint: Path | None, out: Path, stream: Stream | None = None) -> Path:
    """Write encoder.safetensors, encoder.onnx, README.md and config.json into `out`, all or nothing. Returns `out`.

    The same run gives the same bytes. Scores of the card are those in the run folder that belong to this checkpoint.

    Args:
        run: folder of a pre-training run.
        checkpoint: one of its checkpoints; None for the last.
        out: new or empty folder, or one that holds this very export.
        stream: whose encoder, of a run that has several.

    Raises:
        ConfigError: `run` holds no run or no such stream, or `out` holds something else.
        CheckpointError: no checkpoint, a damaged one, or one of another run.
    """
    config, record = read_config(run / "config.json"), read_run(run)
    path = checkpoint or latest_checkpoint(run)
    if path is None:
        raise CheckpointError(f"{run}: found no checkpoint, expected a run that has saved one")
    loaded = load_checkpoint(path, expect_fingerprint=record.fingerprint)
    _check_same_run(path, loaded, config)
    stream = _pick_stream(run, config, stream)
    encoder = encoder_from_state(config.objective.encoder, encoder_state(loaded, stream), str(path)).eval()
    provenance = Provenance(
        stream=stream, frames=config.views.frames, recipe=record.recipe, fingerprint=record.fingerprint
    )
    facts = {name: str(value) for name, value in provenance.model_dump().items()}
    with whole_folder(out) as folder:
        write_encoder(folder / FILE, config.objective.encoder, encoder, provenance)
        write_atomic(folder / ONNX, encoder_model(config.objective.encoder, encoder, config.views.frames, facts))
        write_atomic(folder / "config.json", (run / "config.json").read_bytes())
        write_atomic(folder / CARD, _card(run, path, config, record, loaded, encoder, stream).encode())
    return out


def _check_same_run(path: Path, checkpoint: Checkpoint, config: PretrainConfig) -> None:
    before = validate_tree(PretrainConfig, checkpoint.meta.get("config", {}), str(path))
    # a run may have been given more epochs since
    difference = first_difference(before.model_copy(update={"train": config.train}), config)
    if difference is not None:
        raise CheckpointError(f"{path}: found a checkpoint of another run: {difference}, expected one of this run")


def _pick_stream(run: Path, config: PretrainConfig, stream: Stream | None) -> Stream:
    streams = config.data.streams
    if stream is None and len(streams) > 1:
        raise ConfigError(f"{run}: found encoders of {', '.join(streams)}, expected one of them by --stream")
    if stream is not None and stream not in streams:
        raise ConfigError(f"--stream {stream}: found a run of {', '.join(streams)}, expected one of these")
    return stream or streams[0]


def _card(
    run: Path,
    path: Path,
    config: PretrainConfig,
    record: RunRecord,
    checkpoint: Checkpoint,
    encoder: Encoder,
    stream: Stream,
) -> str:
    sha256 = sha256_file(path)
    folders = (run / "results", *sorted((run / "results").glob("epoch_*/")))
    results = [result for folder in folders for result in read_stored(folder) if result.stream == stream]
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
        features=encoder.width,
        framewise=encoder.stride is not None,
        stream=stream,
        entries=FRAME_SIZE,
        parameters=sum(tensor.numel() for tensor in encoder.state_dict().values() if tensor.is_floating_point()),
        tree=config.model_dump_json(indent=2),
    )

"""One page about one sample: its stored frames and all its views, moving, with what was drawn for each in words."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, select_autoescape

from flows.config import VIEWS, read_config, validate_tree
from flows.pages.player import Picture, Run, Sight
from flows.pages.web import assets, encode, skeleton, upwards
from pipelines.augmentations.joints import JointCorruption
from pipelines.augmentations.operation import Crop, Mix, Operation
from pipelines.augmentations.spatial import Shear
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import CentreCrop
from pipelines.augmentations.vocabulary import OPERATIONS, OneOf
from pipelines.loaders.sample import STAND_IN, Found, find_sample, read_neighbours
from pipelines.loaders.split import SOURCE_BIT
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch
from shards.errors import ConfigError
from shards.files import write_atomic
from shards.places import Place
from shards.skeleton import Stream

if TYPE_CHECKING:
    from flows.config import PretrainConfig
    from flows.pages.sample.run import Group

ALL = "all"
"""The name of a view for each operation."""


@dataclass(frozen=True)
class ViewRequest:
    """Which views of which sample.

    Attributes:
        data: a store's folder, or the folder that holds several.
        key: of the sample.
        views: a kind of `flows.config.VIEWS`, the folder of a pre-training run, a JSON file of a
            `ViewSpec`, or "all".
        stream: of a method's views; a run has its own.
        seed, epoch, step: of the run to replay; `step` matters to what is drawn for a whole batch. None: the seed of
            the run that `views` names, else 0.
        frames: T of a method's views; None for the method's own.
        dataset: which one's store to look in; None for all.
    """

    data: Place
    key: str
    views: str = "pcm3pp"
    stream: Stream = "joint"
    seed: int | None = None
    epoch: int = 0
    step: int = 0
    frames: int | None = None
    dataset: str | None = None

    @property
    def command(self) -> str:
        """The command that shows these views again."""
        words = ["skelstream", "view", str(self.data), self.key]
        for name in ("views", "stream", "seed", "epoch", "step", "frames", "dataset"):
            if getattr(self, name) is not None:
                words += [f"--{name}", str(getattr(self, name))]
        return shlex.join(words)


def write_view(request: ViewRequest, out: Path | None = None) -> Path:
    """Write the page.

    Args:
        request: what it shows.
        out: the file; None for KEY.html in the current folder.

    Raises:
        ConfigError: an unknown key or name of views, a specification with mistakes, or an `out` that is a folder.
        StoreError: the store or the shard is damaged.
    """
    for name in ("seed", "epoch", "step"):
        if (getattr(request, name) or 0) < 0:
            raise ConfigError(f"--{name}: found {getattr(request, name)}, expected 0 or more")
    specs = view_specs(request.views, request.stream, request.frames)
    found = find_sample(request.data, request.key, request.dataset)
    seed = request.seed or 0
    groups: list[Group] = []
    if Path(request.views).is_dir():
        from flows.pages.sample.run import run_groups  # not above: it imports the models

        run = _run(Path(request.views))
        groups = run_groups(Path(request.views), run, found)
        seed = run.train.seed if request.seed is None else request.seed
        found = replace(found, number=found.number + (_source(run, found) << SOURCE_BIT))
    request = replace(request, seed=seed)
    out = Path(f"{request.key}.html") if out is None else out
    if out.is_dir():
        raise ConfigError(f"--out: found the folder {out}, expected the name of a file")
    write_atomic(out, view_page(found, specs, request, groups).encode())
    return out


def view_specs(views: str, stream: Stream, frames: int | None) -> tuple[ViewSpec, ...]:
    """The specifications that a name or file means; several where one cannot hold all, see `every_operation`.

    Raises:
        ConfigError: neither a name nor a readable file, or mistakes in it.
    """
    if frames is not None and frames < 1:
        raise ConfigError(f"--frames: found {frames}, expected at least 1")
    if views == ALL:
        return every_operation(frames or 64)
    if views in VIEWS.names():
        spec = VIEWS.find(views).model_validate({"kind": views}).spec((stream,))
        return (spec if frames is None else spec.model_copy(update={"frames": frames}),)
    if not views.endswith(".json") and not Path(views).is_dir():
        names = ", ".join([*VIEWS.names(), ALL])
        raise ConfigError(
            f"--views: found {views!r}, expected one of {names}, the folder of a run, or a .json file of a ViewSpec"
        )
    if frames is not None:
        raise ConfigError("--frames: found it beside a file, expected it in the file alone")
    if Path(views).is_dir():
        run = _run(Path(views))
        return (run.views.spec(run.data.streams),)
    return (_read_spec(Path(views)),)


def _run(folder: Path) -> "PretrainConfig":
    return read_config(folder / "config.json")


def _source(run: "PretrainConfig", found: Found) -> int:
    """Number of the sample's source in what the run trains on."""
    names = {name.partition("/")[0] for name in found.memberships}
    numbers = [number for number, source in enumerate(run.data.sources) if source.dataset in names]
    if not numbers:
        trained = ", ".join(source.dataset for source in run.data.sources)
        raise ConfigError(f"--views: found a run on {trained}, expected one on {' or '.join(sorted(names))}")
    return numbers[0]


def _read_spec(path: Path) -> ViewSpec:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: found no readable JSON ({error}), expected a ViewSpec") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: found a JSON {type(tree).__name__}, expected a ViewSpec")
    return validate_tree(ViewSpec, tree, str(path))


EXAMPLES: dict[str, tuple[Operation, ...]] = {
    "one_of": (OneOf(operations=(JointCorruption(), Shear()), weights=(0.5, 0.5)),),
    "stream": (ToStream(stream="bone"), ToStream(stream="motion")),
}
"""Operations whose defaults show nothing, or that have none. Those that need a file of the user's are not shown."""


def every_operation(frames: int) -> tuple[ViewSpec, ...]:
    """One view for each operation, behind a crop that takes all; each mix in a specification of its own."""
    whole = CentreCrop(ratio=1.0)
    views: list[View] = []
    mixes: list[ViewSpec] = []
    for kind, maker in OPERATIONS.items():
        complete = not any(field.is_required() for field in maker.model_fields.values())
        for operation in EXAMPLES.get(kind, (maker(kind=kind),) if complete else ()):
            name = f"{kind}-{operation.stream}" if isinstance(operation, ToStream) else kind
            if isinstance(operation, Mix):
                made = (View(name="whole", operations=(whole,)), View(name=name, of="whole", operations=(operation,)))
                mixes.append(ViewSpec(frames=frames, views=made))
            else:
                opening = () if isinstance(operation, Crop) else (whole,)
                views.append(View(name=name, operations=(*opening, operation)))
    return (ViewSpec(frames=frames, views=tuple(views)), *mixes)


def view_page(found: Found, specs: Sequence[ViewSpec], request: ViewRequest, groups: "Sequence[Group]" = ()) -> str:
    """The page as HTML, with what a run makes of the sample; equal samples and requests give equal pages."""
    mixes = any(view.mix for spec in specs for view in spec.views)
    around = read_neighbours(found, STAND_IN if mixes else 1)
    run = Run(request.seed or 0, request.epoch, request.step)
    pictures = [picture for spec in specs for picture in Sight(spec, around, run).pictures()]
    shown = {picture.name: picture for picture in pictures}  # "whole" opens several specifications
    batch = around.batch
    stored = batch.frames[: int(batch.length[0])].float().numpy()
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=select_autoescape(), trim_blocks=True)
    return environment.get_template("view.html").render(
        key=found.index.keys[found.row],
        facts=_facts(found, batch, request),
        pictures=list(shown.values()),
        mixes=mixes,
        others=around.keys[1:],
        command=request.command,
        player=assets(),
        groups=groups,
        viewer={
            "skeleton": skeleton(upwards(found.manifest.recipe_steps)),
            "stored": {
                "title": "stored sample",
                "caption": f"{len(stored)} frames",
                "count": len(stored),
                "data": encode(stored),
            },
            "views": [_sequence(picture) for picture in shown.values()],
            "groups": [vars(group) for group in groups],
        },
    )


def _sequence(picture: Picture) -> dict[str, Any]:
    return {"title": picture.name, "caption": f"made of {picture.of}", **picture.frames}


def _facts(found: Found, batch: RaggedBatch, request: ViewRequest) -> dict[str, str]:
    manifest = found.manifest
    source, own = divmod(found.number, 1 << SOURCE_BIT)
    number = f"{own} of source {source} of the mixture" if source else str(own)
    return {
        "store": f"{found.folder.name}, stored as {manifest.dtype}",
        "shard": found.entry.path,
        "sample": f"number {number}, {int(batch.length[0])} frames, class {int(batch.label[0])}",
        "side": ", ".join(f"{name} {side}" for name, side in found.memberships.items()),
        "drawn by": f"seed {request.seed}, epoch {request.epoch}, sample {number}; "
        f"what serves a whole batch by step {request.step}",
    }

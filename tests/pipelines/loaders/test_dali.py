"""The DALI engine gives what `make_views` gives, and says what it leaves to torch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.augmentations.masks import ClipMask
from pipelines.augmentations.occlusion import SpatialOcclusion, StoredOcclusion, store_occlusion
from pipelines.augmentations.operation import Crop, Free, JointMatrices, Key, Linear, Mask, Mix, Samples, TimeMap
from pipelines.augmentations.spatial import Shear, identity
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import CentreCrop, RandomCrop
from pipelines.augmentations.vocabulary import OPERATIONS, OneOf
from pipelines.loaders.dali import DaliEngine, DaliViews
from pipelines.loaders.loader import Engine, TorchEngine, ViewLoader
from pipelines.loaders.order import Partition
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import Split, open_split
from pipelines.loaders.stream import Stream as Shards
from pipelines.views import Block, make_views, needed_rows
from pipelines.views.downstream import evaluation_spec
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch, Views
from shards.encoding import Storage
from shards.errors import ConfigError, SkelstreamError
from shards.skeleton import Stream

pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")

SEED = 5
STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")


def ragged(lengths: list[int], dtype: torch.dtype = torch.float32) -> RaggedBatch:
    """Samples of random coordinates."""
    length = torch.tensor(lengths)
    frames = torch.randn(sum(lengths), 2, 25, 3, generator=torch.Generator().manual_seed(len(lengths)))
    ids = torch.arange(len(lengths)) * 7 + 3
    return RaggedBatch(frames.to(dtype), length.cumsum(0) - length, length, ids % 5, ids)


def rows(batch: RaggedBatch, numbers: list[int]) -> RaggedBatch:
    part = torch.tensor(numbers)
    return RaggedBatch(batch.frames, batch.start[part], batch.length[part], batch.label[part], batch.sample_id[part])


LENGTHS = [1, 2, 39, 63, 64, 65, 90, 117, 128, 150, 5, 300, 77, 31, 8, 64]


def assert_same(found: Views, expected: Views, tolerance: float = 1e-5) -> None:
    for name in ("views", "masks", "targets"):
        assert getattr(found, name).keys() == getattr(expected, name).keys()
    for name, view in expected.views.items():
        assert found.views[name].shape == view.shape
        assert found.views[name].is_contiguous()
        torch.testing.assert_close(found.views[name], view, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    for name, mask in expected.masks.items():
        assert torch.equal(*torch.broadcast_tensors(found.masks[name], mask)), name
    for name, target in expected.targets.items():
        assert torch.equal(found.targets[name], target), name
    for name in ("label", "sample_id", "mix_partner", "mix_weight"):
        left, right = getattr(found, name), getattr(expected, name)
        assert (left is None and right is None) or torch.equal(left, right), name


def assert_equal_to_torch(
    spec: ViewSpec, batch: RaggedBatch, blocks: list[Block], *, epoch: int = 1, step: int = 2, tolerance: float = 1e-5
) -> None:
    dali = DaliViews(spec, "cpu", seed=SEED, batch_size=len(batch), threads=1)
    for block in blocks:
        part = rows(batch, needed_rows(spec, block, seed=SEED, epoch=epoch, step=step))
        expected = make_views(part, spec, seed=SEED, epoch=epoch, step=step, block=block)
        assert_same(dali.make(part, block, epoch, step), expected, tolerance)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_views_of_pcm3pp_are_those_of_torch_on_every_rank(stream: Stream, world: int) -> None:
    share = len(LENGTHS) // world
    blocks = [Block(rank * share, (rank + 1) * share, len(LENGTHS)) for rank in range(world)]
    assert_equal_to_torch(PCM3PPViewsConfig(min_frames=8).spec((stream,)), ragged(LENGTHS), blocks)


OF_SAMPLES = PCM3PPViewsConfig(min_frames=8, mix_scope="sample", mask_scope="sample", mask_granularity="joint")


@pytest.mark.parametrize(
    ("config", "step"), [*((PCM3PPViewsConfig(), step) for step in range(6)), (OF_SAMPLES, 0), (OF_SAMPLES, 1)]
)
def test_every_way_of_mixing_is_that_of_torch(config: PCM3PPViewsConfig, step: int) -> None:
    blocks = [Block(0, 5, 16), Block(5, 16, 16)]
    assert_equal_to_torch(config.spec(("joint",)), ragged(LENGTHS), blocks, step=step)


def test_frames_of_half_precision_are_widened_as_by_torch() -> None:
    batch = ragged(LENGTHS, torch.float16)
    assert_equal_to_torch(PCM3PPViewsConfig().spec(("joint",)), batch, [Block(0, 16, 16), Block(4, 8, 16)])


@pytest.mark.parametrize("crop", ["centre", "random", "full"])
@pytest.mark.parametrize("frames", [1, 60, 64])
def test_long_samples_are_resampled_at_the_positions_of_torch(
    crop: Literal["centre", "random", "full"], frames: int
) -> None:
    # positions in float32 are off by 1e-4 here; coordinates by as much of their differences
    batch = ragged([1, 2, 999, 2000])
    assert_equal_to_torch(evaluation_spec(crop, "joint", frames), batch, [Block(0, 4, 4)], tolerance=2e-6)


# -- any specification ---------------------------------------------------------------------------------------------

SCARCE: dict[str, dict[str, Any]] = {
    "one_of": {"operations": (Shear(), {"kind": "joint_corruption"}), "weights": (0.4, 0.6)},
}
"""Options of the operations that cannot do without."""

SCOPES = st.sampled_from(["batch", "sample"])


def made_of(kind: str, frames: int, **options: Any) -> Any:
    """An operation of a kind by its defaults, as far as they fit short views."""
    fields = OPERATIONS[kind].model_fields
    short = {"segments": 4, "frames": min(8, frames)}
    chosen = {name: value for name, value in short.items() if name in fields} | SCARCE.get(kind, {})
    return OPERATIONS[kind].model_validate({**chosen, **{n: v for n, v in options.items() if n in fields}})


def kinds_of(families: Any) -> list[str]:
    """The kinds of operations that need no file."""
    return sorted(
        kind
        for kind, operation in OPERATIONS.items()
        if issubclass(operation, families)
        and all(name in SCARCE.get(kind, {}) for name, option in operation.model_fields.items() if option.is_required())
    )


@st.composite
def operations(draw: st.DrawFn, frames: int, *families: Any) -> tuple[Any, ...]:
    kinds = draw(st.lists(st.sampled_from(kinds_of(families)), max_size=3))
    return tuple(
        made_of(
            kind,
            frames,
            probability=draw(st.sampled_from([0.5, 1.0])),
            stream=draw(st.sampled_from(STREAMS)),
            scope=draw(SCOPES),
        )
        for kind in kinds
    )


@st.composite
def specs(draw: st.DrawFn) -> ViewSpec:
    frames = draw(st.sampled_from([16, 48]))
    crops = st.sampled_from(kinds_of(Crop)).map(lambda kind: made_of(kind, frames, min_frames=4))
    changes, masks = operations(frames, Linear, TimeMap, Free, ToStream), operations(frames, Mask)
    views = [
        View(name="a", operations=(draw(crops), *draw(changes))),
        View(name="b", operations=(draw(crops), *draw(changes), *draw(masks))),
        View(name="c", of="b", operations=draw(masks)),
        View(name="d", of="a", operations=(*draw(changes), *draw(masks))),
        View(name="e", of="d", operations=draw(masks)),
    ]
    if draw(st.booleans()):
        mix = made_of(draw(st.sampled_from(kinds_of(Mix))), frames, scope=draw(SCOPES))
        views.append(View(name="f", of="a", operations=(mix, *draw(changes), *draw(masks))))
    return ViewSpec(frames=frames, views=tuple(views))


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(0, 3), st.integers(1, 5))
def test_any_views_are_those_of_torch(spec: ViewSpec, epoch: int, cut: int) -> None:
    batch = ragged([1, 9, 30, 16, 48, 70])
    assert_equal_to_torch(spec, batch, [Block(0, 6, 6), Block(0, cut, 6), Block(cut, 6, 6)], epoch=epoch)


# -- a step is a pure function --------------------------------------------------------------------------------------


def test_a_step_is_the_same_whatever_was_made_before_it_and_stays_as_it_is() -> None:
    spec = PCM3PPViewsConfig().spec(("joint",))
    dali, batch, block = DaliViews(spec, "cpu", seed=SEED, batch_size=16, threads=2), ragged(LENGTHS), Block(0, 16, 16)
    first = dali.make(batch, block, 0, 0)
    kept = {name: view.clone() for name, view in first.views.items()}
    others = [dali.make(rows(batch, list(range(15, -1, -1))), block, 0, step) for step in range(1, 4)]
    again = dali.make(batch, block, 0, 0)
    for name, view in kept.items():
        assert torch.equal(first.views[name], view), name
        assert torch.equal(again.views[name], view), name
        assert not any(torch.equal(other.views[name], view) for other in others), name


def test_views_share_no_memory_with_one_another() -> None:
    dali = DaliViews(PCM3PPViewsConfig().spec(("joint",)), "cpu", seed=SEED, batch_size=16, threads=1)
    made = [dali.make(ragged(LENGTHS), Block(0, 16, 16), 0, 0) for _ in range(2)]
    views = [view for each in made for view in each.views.values()]
    assert len({view.untyped_storage().data_ptr() for view in views}) == len(views)


def test_threads_may_make_steps_at_the_same_time() -> None:
    spec = PCM3PPViewsConfig().spec(("bone",))
    batch, block = ragged(LENGTHS), Block(0, 16, 16)
    dali = DaliViews(spec, "cpu", seed=SEED, batch_size=16, threads=1)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda step: dali.make(batch, block, 0, step), range(12)))
    for step, views in enumerate(made):
        assert_same(views, make_views(batch, spec, seed=SEED, epoch=0, step=step, block=block))


def test_batches_of_any_size_follow_one_another() -> None:
    spec = PCM3PPViewsConfig().spec(("joint",))
    dali, batch = DaliViews(spec, "cpu", seed=SEED, batch_size=4, threads=1), ragged(LENGTHS)
    for count in (4, 3, 16, 5):
        part = rows(batch, list(range(count)))
        expected = make_views(part, spec, seed=SEED, epoch=0, step=0)
        assert_same(dali.make(part, Block(0, count, count), 0, 0), expected)
    dali.close()


# -- as an engine ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=get_args(Storage))
def split(request: pytest.FixtureRequest, write_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """46 samples in 7 shards, in each storage."""
    return open_split(write_folder(tmp_path_factory.mktemp("store"), request.param), "ntu60", "xsub", "train")


def engine(name: str, split: Split, spec: ViewSpec) -> Engine:
    if name == "dali":
        return DaliEngine(split, spec, "cpu", seed=SEED, batch_size=12)
    return TorchEngine(Resident(split, "cpu") if name == "resident" else Shards(split, "cpu"), spec, SEED)


def loader(engine: Engine, split: Split, spec: ViewSpec, rank: int = 0, world: int = 1, workers: int = 0) -> ViewLoader:
    order = split.order(window=2, seed=SEED)
    partition = Partition(order.samples, 12, rank=rank, world=world)
    return ViewLoader(engine, order, partition, spec, seed=SEED, workers=workers)


@pytest.mark.parametrize("other", ["resident", "stream"])
def test_an_epoch_is_that_of_the_other_engines(split: Split, other: str) -> None:
    spec = OF_SAMPLES.spec(("motion",))
    engines = [engine("dali", split, spec), engine(other, split, spec)]
    for epoch in (0, 3):
        found, expected = ([*loader(each, split, spec, workers=2).epoch(epoch)] for each in engines)
        assert len(found) == len(expected) == 3
        for mine, theirs in zip(found, expected, strict=True):
            assert_same(mine, theirs)
    for each in engines:
        each.close()


def test_a_run_of_another_engine_goes_on_here_on_another_number_of_ranks(split: Split) -> None:
    spec = OF_SAMPLES.spec(("joint",))
    dali = engine("dali", split, spec)
    undisturbed = [*loader(engine("resident", split, spec), split, spec).epoch(1)]
    ranks = [[*loader(dali, split, spec, rank, 3).epoch(1, first_step=1)] for rank in range(3)]
    for step, whole in enumerate(undisturbed[1:]):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.sample_id for part in parts]), whole.sample_id)
        for name, view in whole.views.items():
            gathered = torch.cat([part.views[name] for part in parts])
            torch.testing.assert_close(gathered, view, rtol=0, atol=1e-5)
    dali.close()


# -- what it says ---------------------------------------------------------------------------------------------------


class Swap(Linear):
    kind: Literal["swap"] = "swap"
    source: ClassVar[str] = "this test"

    def draw(self, samples: Samples, key: Key, frames: int) -> int:
        return len(samples)

    def joint_map(self, params: int) -> JointMatrices:
        return JointMatrices(torch.eye(3).expand(params, 1, 3, 3), identity(params).flip(1))


class Brighter(Mask):
    kind: Literal["brighter"] = "brighter"
    source: ClassVar[str] = "this test"

    def draw(self, samples: Samples, key: Key, frames: int) -> None:
        return None

    def visible(self, x: Tensor, params: None) -> Tensor:
        return x[..., 0] > 0


class Beyond(TimeMap):
    """Asks sample 10 for a frame behind its last one."""

    kind: Literal["beyond"] = "beyond"
    source: ClassVar[str] = "this test"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        return samples.sample_id == 10

    def index(self, params: Tensor, frames: int) -> Tensor:
        return torch.arange(frames, dtype=torch.float64) + 2.0 * params[:, None]


def test_the_report_tells_what_runs_where_and_why() -> None:
    def told(*operations: Any, more: tuple[View, ...] = ()) -> str:
        views = (View(name="a", operations=(RandomCrop(), *operations)), *more)
        return DaliViews(ViewSpec(views=views), "cpu", seed=0, batch_size=4).report()

    assert told(Shear(), ToStream(stream="motion")) == "DALI on the CPU makes a: crop, shear, stream"
    assert told(Swap(), ToStream(stream="motion")) == (
        "DALI on the CPU makes a: crop; torch after it a: swap (joints change places), stream"
    )
    masks = (View(name="b", of="a", operations=(Shear(), Brighter(), ClipMask(frames=8))),)
    assert told(ToStream(stream="bone"), more=masks) == (
        "DALI on the CPU makes a: crop; torch after it a: stream (differences of joints);"
        " b: shear (a is not complete before), brighter, clip_mask"
    )
    assert told(more=masks) == (
        "DALI on the CPU makes a: crop; b: shear; torch after it b: brighter (depends on the samples), clip_mask"
    )
    either = OneOf(operations=(Shear(), Swap()), weights=(0.5, 0.5))
    assert told(either) == "DALI on the CPU makes a: crop; torch after it a: one_of (joints change places)"


def test_views_that_dali_cannot_finish_are_those_of_torch() -> None:
    views = (
        View(name="a", operations=(RandomCrop(), Shear(), Swap(), ToStream(stream="motion"), Shear())),
        View(name="b", of="a", operations=(Shear(), Brighter())),
        View(name="c", operations=(CentreCrop(), Shear(), ToStream(stream="joint"), ClipMask(frames=8), Brighter())),
        View(name="d", of="c"),
        View(name="e", of="c", operations=(ClipMask(frames=9),)),
    )
    assert_equal_to_torch(ViewSpec(frames=20, views=views), ragged(LENGTHS), [Block(0, 16, 16), Block(3, 9, 16)])


@pytest.mark.parametrize(
    ("known", "where"), [([0], "makes a: centre_crop, stored_occlusion"), ([], "torch after it a: stored")]
)
def test_stored_masks_are_those_of_torch_whether_or_not_the_graph_knows_them(
    known: list[int], where: str, tmp_path: Path
) -> None:
    batch, path = ragged(LENGTHS), tmp_path / "masks.npz"
    ids = torch.cat((torch.tensor(known, dtype=torch.int64), batch.sample_id))
    store_occlusion(path, SpatialOcclusion(), ids, frames=16, seed=0)
    view = View(name="a", operations=(CentreCrop(), StoredOcclusion(path=path)))
    spec = ViewSpec(frames=16, views=(view,))
    assert where in DaliViews(spec, "cpu", seed=0, batch_size=4).report()
    assert_equal_to_torch(spec, batch, [Block(0, 16, 16)])


def test_a_failure_of_dali_names_view_operation_and_sample_and_the_next_step_goes_on() -> None:
    beyond = View(name="late", operations=(RandomCrop(), ToStream(stream="motion"), Beyond(), Shear()))
    spec = ViewSpec(frames=16, views=(View(name="early", operations=(RandomCrop(),)), beyond))
    dali, batch = DaliViews(spec, "cpu", seed=SEED, batch_size=4, threads=1), ragged(LENGTHS)
    with pytest.raises(
        SkelstreamError, match=r"^DALI: view late, beyond, samples \[10\]: found .*sequence_length = 16"
    ) as raised:
        dali.make(rows(batch, [0, 1, 2, 3]), Block(0, 4, 4), 0, 0)
    assert "\n" not in str(raised.value)
    part = rows(batch, [0, 2, 3])
    assert_same(dali.make(part, Block(0, 3, 3), 0, 0), make_views(part, spec, seed=SEED, epoch=0, step=0))


def test_without_dali_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "nvidia.dali" or name.startswith("nvidia.dali.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"--loader dali: found no usable DALI .* expected nvidia-dali-cuda130 or"):
        DaliViews(PCM3PPViewsConfig().spec(("joint",)), "cpu", seed=0, batch_size=4)


def test_dali_is_imported_only_when_it_is_used() -> None:
    code = "import sys, pipelines.loaders.dali; print([m for m in sys.modules if m.startswith('nvidia')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

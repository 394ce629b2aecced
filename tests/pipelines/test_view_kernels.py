"""The fast ways to make the folded part of a view, against the plain one."""

import gc
import hashlib
import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._inductor import metrics

from pipelines.augmentations.mixing import Mixing, Mixings, apply_mix, apply_mixings
from pipelines.augmentations.operation import JointMatrices, Window
from pipelines.views import fused as fused_module
from pipelines.views import processor, recycling
from pipelines.views.draw import Drawn
from pipelines.views.fused import Fused, complete, pointwise
from pipelines.views.render import hidden, render, render_plain
from shards.batch import RaggedBatch, flatten, unflatten
from shards.skeleton import Stream

STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")
TOLERANCE = 1e-6
"""Of the largest sum that an entry is made of, |matrix| |x|: three products and two differences of rounded numbers."""


def _batch(lengths: list[int], dtype: torch.dtype, bodies: list[int], seed: int = 0) -> RaggedBatch:
    """Samples with gaps between them, some without a second person."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths)
    start = length.cumsum(0) - length + torch.arange(len(lengths))
    frames = torch.randn(int(length.sum()) + len(lengths), 2, 25, 3, generator=generator)
    for first, frames_of, persons in zip(start.tolist(), lengths, bodies, strict=True):
        frames[first : first + frames_of, persons:] = 0
    return RaggedBatch(frames.to(dtype), start, length, torch.zeros_like(length), torch.arange(len(lengths)))


def _drawn(batch: RaggedBatch, frames: int, stream: Stream, matrices: int, gather: bool, index: bool) -> Drawn:
    """Random windows, and `matrices` of them a sample."""
    generator = torch.Generator().manual_seed(1)
    samples = len(batch)
    first = (torch.rand(samples, generator=generator) * batch.length).long()
    length = ((torch.rand(samples, generator=generator) * (batch.length - first)).long() + 1).minimum(
        batch.length - first
    )
    source = torch.randint(0, 25, (samples, 25), generator=generator) if gather else None
    joints = JointMatrices(torch.randn(samples, matrices, 3, 3, generator=generator), source) if matrices else None
    places = torch.rand(samples, frames, generator=generator, dtype=torch.float64) * (frames - 1) if index else None
    return Drawn(Window(first, length), places, joints, stream)


def _assert_equal_views(found: Tensor, batch: RaggedBatch, drawn: Drawn, frames: int) -> None:
    expected = flatten(render_plain(batch, drawn, frames))
    size = 1.0 if drawn.joints is None else float(drawn.joints.matrices.abs().sum(-1).max())
    scale = 2 * size * float(batch.frames.abs().max())
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * scale)


@settings(deadline=None, max_examples=150)
@given(
    samples=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 2)), min_size=1, max_size=5),
    frames=st.sampled_from([1, 2, 7, 8, 9, 16, 33, 64]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    stream=st.sampled_from(STREAMS),
    matrices=st.sampled_from([0, 1, 25]),
    gather=st.booleans(),
    index=st.booleans(),
)
def test_compiled_views_equal_plain_ones(
    samples: list[tuple[int, int]],
    frames: int,
    dtype: torch.dtype,
    stream: Stream,
    matrices: int,
    gather: bool,
    index: bool,
) -> None:
    batch = _batch([length for length, _ in samples], dtype, [bodies for _, bodies in samples])
    drawn = _drawn(batch, frames, stream, matrices, gather, index)
    assert processor.takes(batch.frames)
    _assert_equal_views(render(batch, drawn, frames), batch, drawn, frames)
    _assert_equal_views(pointwise(*complete(batch, drawn, frames), frames, stream), batch, drawn, frames)


def test_every_float16_is_widened_exactly() -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    stored = torch.zeros(437 * 150, dtype=torch.float16)
    stored[: 1 << 16] = bits.view(torch.float16)
    length = torch.ones(437, dtype=torch.int64)
    rows = torch.arange(437)
    batch = RaggedBatch(stored.view(-1, 2, 25, 3), rows, length, rows, rows)
    found = render(batch, Drawn(Window(torch.zeros_like(length), length)), 1)
    expected = stored.float().view(-1, 2, 25, 3).permute(0, 2, 3, 1).reshape(437, 1, 150)
    # resampling takes the difference of a frame and itself: what is not finite becomes NaN, as in the plain way
    finite = expected.isfinite()
    assert torch.equal(found[finite], expected[finite])
    assert not found[~finite].isfinite().any()


@pytest.mark.parametrize("stream", STREAMS)
def test_views_are_the_same_bits_on_any_number_of_threads(stream: Stream) -> None:
    batch = _batch([1 + n % 70 for n in range(133)], torch.float32, [1 + n % 2 for n in range(133)])
    drawn = _drawn(batch, 64, stream, 25, False, False)
    before = torch.get_num_threads()
    try:
        views = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            views.append(render(batch, drawn, 64))
    finally:
        torch.set_num_threads(before)
    other: list[Tensor] = []
    worker = threading.Thread(target=lambda: other.append(render(batch, drawn, 64)))
    worker.start()
    worker.join()
    assert all(torch.equal(views[0], x) for x in (*views[1:], *other))


def _spoilt(batch: RaggedBatch, drawn: Drawn, what: str) -> Drawn:
    assert drawn.window is not None
    assert drawn.joints is not None
    assert drawn.joints.source is not None
    first, length, source = drawn.window.first.clone(), drawn.window.length.clone(), drawn.joints.source.clone()
    if what == "before the buffer":
        first[40] = -int(batch.start[40]) - 1
    elif what == "behind the buffer":
        length[40] = len(batch.frames) - int(batch.start[40] + first[40]) + 1
    elif what == "far behind the buffer":
        first[40] = torch.iinfo(torch.int64).max - 1000
    elif what == "no frame":
        length[40] = 0
    elif what == "no joint":
        source[40, 3] = 25
    else:
        source[40, 24] = -1
    return Drawn(Window(first, length), drawn.index, JointMatrices(drawn.joints.matrices, source), drawn.stream)


@pytest.mark.parametrize(
    "what",
    ["before the buffer", "behind the buffer", "far behind the buffer", "no frame", "no joint", "a negative joint"],
)
def test_nothing_outside_the_buffer_is_read(what: str) -> None:
    batch = _batch([20] * 70, torch.float32, [2] * 70)
    drawn = _spoilt(batch, _drawn(batch, 8, "joint", 1, True, False), what)
    with pytest.raises(
        IndexError, match=r"sample 40: found frames -?\d+ to -?\d+ or a joint outside 0\.\.24, expected"
    ):
        render(batch, drawn, 8)


def test_places_that_are_no_places_stay_within_the_window() -> None:
    batch = _batch([5, 9], torch.float32, [2, 2])
    places = torch.tensor([[-1e300, 1e300, float("inf"), float("-inf"), float("nan"), 3.5]], dtype=torch.float64)
    found = render(batch, Drawn(Window(torch.zeros(2).long(), batch.length), places.repeat(2, 1)), 6)
    flat = flatten(batch.frames[None])[0]
    for row in range(2):
        first, last = int(batch.start[row]), int(batch.start[row] + batch.length[row]) - 1
        assert torch.equal(found[row, 0], flat[first])
        assert torch.equal(found[row, 3], flat[first])
        assert torch.equal(found[row, 1][:0], flat[last][:0])
    assert found.shape == (2, 6, 150)


def test_an_empty_batch_has_empty_views() -> None:
    batch = _batch([3], torch.float32, [1])
    none = torch.zeros(0, dtype=torch.int64)
    empty = RaggedBatch(batch.frames, none, none, none, none)
    assert render(empty, Drawn(Window(none, none)), 8).shape == (0, 8, 150)


@pytest.mark.parametrize("kind", ["float64", "strided"])
def test_other_frames_are_rendered_the_plain_way(kind: str) -> None:
    batch = _batch([5, 9], torch.float32, [2, 2])
    frames = batch.frames.double() if kind == "float64" else batch.frames.movedim(-1, 0).contiguous().movedim(0, -1)
    other = RaggedBatch(frames, batch.start, batch.length, batch.label, batch.sample_id)
    drawn = _drawn(batch, 8, "bone", 1, True, True)
    assert not processor.takes(frames)
    torch.testing.assert_close(render(other, drawn, 8), render(batch, drawn, 8), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(0, 70),
    frames=st.sampled_from([1, 2, 7, 8, 9, 16, 33]),
    masks=st.sampled_from(["one", "each"]),
    times=st.sampled_from(["one", "each"]),
    entries=st.sampled_from([1, 150]),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 9),
)
def test_hidden_entries_are_zero_and_others_stay(
    samples: int, frames: int, masks: str, times: str, entries: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, frames, 150, generator=generator)
    x[:, :, 7] = float("nan")
    shape = (samples if masks == "each" else 1, frames if times == "each" else 1, entries)
    shown = torch.rand(shape, generator=generator) < share
    assert processor.passes_over(x)
    found = hidden(x, shown)
    expected = torch.where(shown, x, 0.0)
    assert found.numpy().tobytes() == expected.numpy().tobytes()
    wide = x.double()
    assert not processor.passes_over(wide)
    assert torch.equal(hidden(wide, shown).nan_to_num(5), expected.double().nan_to_num(5))


@settings(deadline=None, max_examples=60)
@given(
    own=st.integers(1, 70),
    more=st.integers(0, 9),
    frames=st.sampled_from([4, 12, 16, 64]),
    mode=st.sampled_from(["cut", "time", "mixup"]),
    stretch=st.sampled_from([(0, 4), (0, 1), (1, 2), (3, 1), (1, 3)]),
    joints=st.sets(st.integers(0, 24)),
    seed=st.integers(0, 9),
)
def test_mixing_in_one_pass_equals_mixing_with_copied_partners(
    own: int, more: int, frames: int, mode: Any, stretch: tuple[int, int], joints: set[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(own + more, frames, 150, generator=generator)
    rows = torch.randint(0, own + more, (own,), generator=generator)
    if seed % 2:  # as partners stand, most of them side by side
        rows = (torch.arange(own) + seed) % (own + more)
    mixing = Mixing(mode, tuple(sorted(joints)), *stretch, units=4, blend=seed / 10)
    found = processor.mix(x, rows, mixing)
    expected = flatten(apply_mix(unflatten(x[:own]), unflatten(x[rows]), mixing))
    # torch rounds the last entries of a piece of memory once more than the others when it blends
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if mode == "mixup" else 0)


@settings(deadline=None, max_examples=60)
@given(own=st.integers(1, 70), more=st.integers(0, 9), frames=st.sampled_from([4, 12, 16, 64]), seed=st.integers(0, 99))
def test_mixing_each_sample_in_its_own_way_in_one_pass_equals_mixing_with_copied_partners(
    own: int, more: int, frames: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def whole(high: int) -> Tensor:
        return torch.randint(0, high, (own,), generator=generator)

    x = torch.randn(own + more, frames, 150, generator=generator)
    rows, length = whole(own + more), whole(4) + 1
    joints = torch.rand(own, 25, generator=generator) < torch.rand(own, 1, generator=generator)
    blend = torch.rand(own, generator=generator, dtype=torch.float64)
    mixings = Mixings(whole(3), joints, whole(4) % (5 - length), length, blend, units=4)
    found = processor.mix(x, rows, mixings)
    expected = flatten(apply_mixings(unflatten(x[:own]), unflatten(x[rows]), mixings))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    pasted = mixings.mode < 2
    assert torch.equal(found[pasted], expected[pasted])


def test_a_partner_that_is_not_there_is_not_read() -> None:
    with pytest.raises(IndexError, match=r"found partners 2\.\.9, expected some of 9 samples"):
        processor.mix(torch.zeros(9, 16, 150), torch.tensor([2, 9]), Mixing("cut", (1,), 0, 4))


def test_memory_of_views_is_used_again_only_when_nothing_refers_to_it() -> None:
    def held(x: Any) -> int:
        return int(x.untyped_storage().data_ptr())

    shape = (37, 64, 150)
    first, second = recycling.empty(*shape), recycling.empty(*shape)
    assert held(first) != held(second)
    place, part = held(first), first[3, :, 7]
    del first
    gc.collect()
    third = recycling.empty(*shape)
    assert held(third) != place
    array = part.numpy()
    del part
    gc.collect()
    assert held(recycling.empty(*shape)) != place
    array.flags.writeable = False
    del array
    gc.collect()
    assert held(recycling.empty(*shape)) == place


def test_memory_of_another_size_is_left_for_its_own_kind() -> None:
    one = recycling.empty(40, 64, 150)
    place = one.data_ptr()
    del one
    gc.collect()
    other = recycling.empty(41, 64, 150)
    assert other.data_ptr() != place
    assert recycling.empty(40, 64, 150).data_ptr() == place


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, when Inductor is imported
def test_the_pointwise_function_compiles_to_one_kernel_for_all_batch_sizes() -> None:
    compiled = Fused()
    metrics.reset()
    for number, samples in enumerate((5, 9, 3)):
        batch = _batch([1 + 7 * n for n in range(samples)], torch.float32, [2] * samples)
        for matrices, gather, index in ((25, False, False), (1, True, False), (0, False, True)):
            drawn = _drawn(batch, 16, "bone", matrices, gather, index)
            found = compiled(batch, drawn, 16)
            assert found is not None
            _assert_equal_views(found, batch, drawn, 16)
            assert metrics.generated_kernel_count == 1, f"batch {number}"


def test_without_a_compiler_the_plain_way_is_taken_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def failing() -> Any:
        tried.append(1)
        raise RuntimeError("\nno C++ compiler found\nand more")

    monkeypatch.setattr(fused_module, "compiled", failing)
    compiled = Fused()
    batch = _batch([5, 9], torch.float32, [2, 2])
    drawn = _drawn(batch, 8, "joint", 1, False, False)
    with caplog.at_level(logging.WARNING):
        assert [compiled(batch, drawn, 8) for _ in range(3)] == [None] * 3
    assert len(tried) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "views are made without a fused kernel, which cannot be compiled here: no C++ compiler found"
    ]


def test_a_device_out_of_memory_is_no_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(fused_module, "compiled", full)
    compiled = Fused()
    batch = _batch([5, 9], torch.float32, [2, 2])
    with pytest.raises(torch.OutOfMemoryError):
        compiled(batch, _drawn(batch, 8, "joint", 1, False, False), 8)


def test_one_sample_is_left_to_the_plain_way() -> None:
    batch = _batch([5], torch.float32, [2])
    assert Fused()(batch, _drawn(batch, 8, "joint", 1, False, False), 8) is None


def test_frames_that_cannot_be_written_are_read() -> None:
    array = np.random.default_rng(0).standard_normal((9, 2, 25, 3)).astype(np.float32)
    rows = torch.zeros(1, dtype=torch.int64)
    batch = RaggedBatch(torch.from_numpy(array), rows, torch.tensor([9]), rows, rows)
    before = array.copy()
    render(batch, _drawn(batch, 8, "motion", 1, True, True), 8)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("name", ["kernels", "passes"])
def test_kept_machine_code_goes_stale_with_the_lanes_it_is_made_of(name: str) -> None:
    module = importlib.import_module(f"pipelines.views.{name}")
    lanes = Path(module.__file__ or "").with_name("lanes.py")
    assert hashlib.sha256(lanes.read_bytes()).hexdigest()[:12] == module.LANES_SHA256

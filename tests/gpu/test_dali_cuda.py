"""The DALI graph on a CUDA device gives the views that torch gives on the CPU. Needs no network and no data."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.loaders.dali import DaliViews
from pipelines.views import Block, make_views, needed_rows
from pipelines.views.spec import ViewSpec
from shards.batch import RaggedBatch, Views
from shards.skeleton import Stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
pytest.importorskip("nvidia.dali", reason="DALI exists for Linux only")


def ragged(dtype: torch.dtype, samples: int = 16) -> RaggedBatch:
    """Samples on the host, as they are read."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 150, (samples,), generator=generator)
    frames = torch.randn(int(length.sum()), 2, 25, 3, generator=generator).to(dtype)
    ids = torch.arange(samples) * 7
    return RaggedBatch(frames, length.cumsum(0) - length, length, ids % 5, ids)


def rows(batch: RaggedBatch, numbers: list[int]) -> RaggedBatch:
    part = torch.tensor(numbers)
    return RaggedBatch(batch.frames, batch.start[part], batch.length[part], batch.label[part], batch.sample_id[part])


def assert_same(found: Views, expected: Views) -> None:
    assert found.views.keys() == expected.views.keys()
    assert found.masks.keys() == expected.masks.keys()
    for name, view in expected.views.items():
        assert found.views[name].is_cuda
        torch.testing.assert_close(found.views[name].cpu(), view, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, mask in expected.masks.items():
        assert torch.equal(*torch.broadcast_tensors(found.masks[name].cpu(), mask)), name
    assert torch.equal(found.label.cpu(), expected.label)
    assert torch.equal(found.sample_id.cpu(), expected.sample_id)
    assert found.mix_partner is not None
    assert expected.mix_partner is not None
    assert torch.equal(found.mix_partner.cpu(), expected.mix_partner)


def views(spec: ViewSpec) -> DaliViews:
    return DaliViews(spec, "cuda", seed=3, batch_size=16, threads=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_views_are_those_of_torch_on_the_cpu(stream: Stream, dtype: torch.dtype) -> None:
    spec, batch = PCM3PPViewsConfig(min_frames=8).spec((stream,)), ragged(dtype)
    dali = views(spec)
    assert dali.report().startswith("DALI on the GPU makes base: crop, one_of")
    for block in (Block(0, 16, 16), Block(4, 8, 16)):
        part = rows(batch, needed_rows(spec, block, seed=3, epoch=1, step=2))
        expected = make_views(part, spec, seed=3, epoch=1, step=2, block=block)
        assert_same(dali.make(part, block, 1, 2), expected)
    dali.close()


def test_steps_made_by_threads_on_streams_of_their_own_stay_as_they_are() -> None:
    spec, batch, block = PCM3PPViewsConfig().spec(("joint",)), ragged(torch.float32), Block(0, 16, 16)
    dali = views(spec)

    def make(step: int) -> Views:
        with torch.cuda.stream(torch.cuda.Stream()):
            made = dali.make(batch, block, 0, step)
            torch.cuda.current_stream().synchronize()
        return made

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(make, range(12)))
    for step, found in enumerate(made):
        assert_same(found, make_views(batch, spec, seed=3, epoch=0, step=step, block=block))

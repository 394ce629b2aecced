"""The DALI engine: the views that `make_views` gives, as far as possible made in a DALI graph.

DALI's own reader is not used: its shuffling is a buffer, it follows our order only by an index file for each sample,
written anew for each epoch, resume and rank, and it knows neither the storage `fixed` nor copies of remote shards. So
`stream.Stream` reads (5 ms of about 45 ms a step of 128 samples), and samples enter the graph by `external_source`. All
draws are made by `views.draw`; what DALI lacks is applied by torch after it.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipelines.augmentations.operation import Samples
from pipelines.loaders.dali_graph import Graph, imported_dali, located
from pipelines.loaders.dali_plan import Plan, flat_mask, plan_graph, resampling, unfolded, values
from pipelines.loaders.order import Places
from pipelines.loaders.split import Split
from pipelines.loaders.stream import Stream
from pipelines.views import Begun, Block, assembled, draw_blend
from pipelines.views.draw import Drawn, draw_view
from pipelines.views.spec import ViewSpec
from shards.batch import RaggedBatch, Views
from shards.cores import count_cores
from shards.errors import SkelstreamError

_HOST = torch.device("cpu")


class DaliEngine:
    """`loader.Engine` whose views are made by DALI and, where DALI lacks an operation, by torch after it.

    Args:
        split: the samples.
        spec: the views.
        device: where views are made; the graph is one of the CPU unless this is a CUDA device.
        seed: of the draws.
        batch_size: samples of a global batch.
        threads: of DALI; by default one a core, at most 8.
        cache, cache_bytes: as of `stream.Stream`, which reads.

    Raises:
        ConfigError: DALI is not installed, or not made for this platform.
    """

    def __init__(
        self,
        split: Split,
        spec: ViewSpec,
        device: torch.device | str,
        *,
        seed: int,
        batch_size: int,
        threads: int | None = None,
        cache: Path | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self._views = DaliViews(spec, device, seed=seed, batch_size=batch_size, threads=threads)
        self._samples = Stream(split, _HOST, cache=cache, cache_bytes=cache_bytes)

    def views(self, places: Places, block: Block, epoch: int, step: int) -> Views:
        """The views of a step; a pure function of the arguments.

        Raises:
            StoreError: a shard cannot be read.
            SkelstreamError: DALI failed; names view, operation and samples.
        """
        return self._views.make(self._samples.batch(places), block, epoch, step)

    def announce(self, places: Places) -> None:
        """As of `loader.Samples`."""
        self._samples.announce(places)

    def close(self) -> None:
        """Give back graphs, threads and temporary files."""
        self._views.close()
        self._samples.close()

    def report(self) -> str:
        """One line: what DALI makes, and what torch makes after it and why."""
        return self._views.report()


class DaliViews:
    """`make_views` with a DALI graph; methods may be called from several threads at once. Args as of `DaliEngine`."""

    def __init__(
        self, spec: ViewSpec, device: torch.device | str, *, seed: int, batch_size: int, threads: int | None = None
    ) -> None:
        imported_dali()
        self._spec, self._device, self._seed, self._rows = spec, torch.device(device), seed, batch_size
        self._threads = min(count_cores(), 8) if threads is None else threads
        self._plans = plan_graph(spec)
        self._graphs: dict[tuple[tuple[str, ...], bool], Graph] = {}
        self._lock = threading.Lock()

    def make(self, batch: RaggedBatch, block: Block, epoch: int, step: int) -> Views:
        """The views of a block; `batch` on the host holds the samples of `needed_rows`, see `make_views`."""
        rows = {name: slice(0, len(block)) for name in _names(self._spec)}
        rows.update({view.of: slice(0, len(batch)) for view in self._spec.views if view.mix and view.of})
        host = {name: Samples(batch.sample_id[part], batch.length[part]) for name, part in rows.items()}
        drawn = self._drawn(host, epoch, step)
        made = self._run(batch, len(block), host, drawn)
        if self._device.type != "cpu":
            # what torch does after DALI, it does with parameters on the device; draws are the same bits everywhere
            there = {n: Samples(s.sample_id.to(self._device), s.length.to(self._device)) for n, s in host.items()}
            drawn = self._drawn(there, epoch, step)
        begun = {n: self._begun(plan, drawn[n], made[n]) for n, plan in self._plans.items() if plan.inside}
        own = RaggedBatch(
            batch.frames,
            *(x[: len(block)] for x in (batch.start, batch.length)),
            *(x[: len(block)].to(self._device) for x in (batch.label, batch.sample_id)),
        )
        mixed = Samples(own.sample_id, own.length.to(self._device))
        blend = draw_blend(self._spec, mixed, block.total, seed=self._seed, epoch=epoch, step=step)
        return assembled(own, self._spec, drawn, begun, block, blend)

    def report(self) -> str:
        """One line: what DALI makes, and what torch makes after it and why."""
        plans = self._plans.values()
        inside = "; ".join(f"{plan.view.name}: {', '.join(plan.before)}" for plan in plans if plan.inside)
        after = "; ".join(f"{plan.view.name}: {', '.join(plan.after)}" for plan in plans if plan.left)
        where = "GPU" if self._device.type == "cuda" else "CPU"
        return f"DALI on the {where} makes {inside}" + (f"; torch after it {after}" if after else "")

    def close(self) -> None:
        """Give back the graphs."""
        with self._lock:
            self._graphs.clear()

    def _drawn(self, samples: Mapping[str, Samples], epoch: int, step: int) -> dict[str, Drawn]:
        spec = self._spec
        return {
            view.name: draw_view(view, samples[view.name], spec.frames, seed=self._seed, epoch=epoch, step=step)
            for view in spec.views
        }

    def _run(
        self, batch: RaggedBatch, own: int, samples: Mapping[str, Samples], drawn: Mapping[str, Drawn]
    ) -> dict[str, Tensor]:
        """What the graphs make: of the block's own samples all views, of others those of which a mix takes a part."""
        fed = {n: self._fed(plan, drawn[n], samples[n].length) for n, plan in self._plans.items() if plan.inside}
        made = self._run_rows(batch, slice(0, own), list(self._plans.values()), fed)
        if len(batch) > own:
            sources = {view.of for view in self._spec.views if view.mix is not None}
            plans = [plan for name, plan in self._plans.items() if name in sources]
            others = self._run_rows(batch, slice(own, len(batch)), plans, fed)
            made.update({name: torch.cat((made[name], x)) for name, x in others.items()})
        return made

    def _fed(self, plan: Plan, drawn: Drawn, length: Tensor) -> list[Tensor]:
        """What a view's nodes are fed, (N, ...) each."""
        frames, steps = self._spec.frames, unfolded(drawn)[: len(plan.stages)]
        fed = [] if drawn.window is None else resampling(drawn, length, frames)
        return fed + [value for step in steps for value in values(step, len(length), frames)]

    def _run_rows(
        self, batch: RaggedBatch, rows: slice, plans: list[Plan], fed: Mapping[str, list[Tensor]]
    ) -> dict[str, Tensor]:
        """The views of these rows; the graph is built when first needed, and again for a batch beyond its size."""
        start, length = batch.start[rows].tolist(), batch.length[rows].tolist()
        samples = [batch.frames[first : first + count] for first, count in zip(start, length, strict=True)]
        part = {name: [value[rows] for value in values] for name, values in fed.items()}
        half, size = batch.frames.dtype == torch.float16, max(self._rows, len(samples))

        def build(plans: Sequence[Plan]) -> Graph:
            frames, device, threads = self._spec.frames, self._device, self._threads
            return Graph(plans, frames, rows=size, half=half, device=device, threads=threads)

        key = tuple(plan.view.name for plan in plans), half
        with self._lock:
            graph = self._graphs.pop(key, None)
            if graph is None or graph.rows < size:
                graph = build(plans)
            try:
                made = graph.run(samples, part)
            except SkelstreamError as error:
                where, failing = located(build, plans, samples, part)
                ids = batch.sample_id[rows][failing].tolist()
                raise SkelstreamError(f"DALI: {where}, samples {ids}: found {error}") from error
            self._graphs[key] = graph
        return made

    def _begun(self, plan: Plan, drawn: Drawn, x: Tensor) -> Begun:
        steps, done = unfolded(drawn), len(plan.stages)
        return Begun(x, steps[done:], flat_mask(steps[:done], len(x), self._spec.frames, x.device))


def _names(spec: ViewSpec) -> list[str]:
    return [view.name for view in spec.views]

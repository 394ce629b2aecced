"""What a method sees of a sample: its views, all of a batch at once, on the batch's device."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.augmentations.mixing import PartnerMix
from pipelines.augmentations.operation import Blend, Key, Mix, Samples
from pipelines.views import processor
from pipelines.views.draw import Drawn, Step, draw_view
from pipelines.views.render import apply_steps, render
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch, Views, flatten, unflatten


@dataclass(frozen=True)
class Block:
    """The rows of a global batch that one rank sees: first..stop-1 of `total`."""

    first: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.first


def draw_blend(spec: ViewSpec, samples: Samples, total: int, *, seed: int, epoch: int, step: int) -> Blend | None:
    """How these samples of a global batch of `total` are mixed; None when no view mixes."""
    mix = _mix(spec, seed, epoch, step)
    return None if mix is None else mix[0].draw_mix(samples, mix[1], total)


def _mix(spec: ViewSpec, seed: int, epoch: int, step: int) -> tuple[Mix, Key] | None:
    """What mixes, and what it draws by."""
    for view in spec.views:
        if view.mix is not None:
            return view.mix, Key(seed, epoch, step, view.mix.share or view.name)
    return None


def partner_rows(block: Block, shift: int) -> list[int]:
    """Row of the global batch that each of the block's samples is mixed with, see `Blend`."""
    return [(row + shift) % block.total for row in range(block.first, block.stop)]


def needed_rows(spec: ViewSpec, block: Block, *, seed: int, epoch: int, step: int) -> list[int]:
    """The rows of the global batch that a rank's views are made of: its own, then partners of other ranks."""
    own = list(range(block.first, block.stop))
    mix = _mix(spec, seed, epoch, step) if len(block) < block.total else None
    if mix is None:
        return own
    shift = mix[0].draw_shift(mix[1], block.total)
    return own + [row for row in partner_rows(block, shift) if not block.first <= row < block.stop]


def make_views(
    batch: RaggedBatch, spec: ViewSpec, *, seed: int, epoch: int, step: int, block: Block | None = None
) -> Views:
    """All views of a batch.

    What a sample's own views draw depends on (seed, epoch, sample id) only; mixes and masks of scope "batch" serve the
    whole global batch and are drawn from (seed, epoch, step), as is who is mixed with whom.

    Args:
        batch: the samples of `needed_rows`.
        spec: the views.
        seed, epoch, step: of the run; `step` counts the global batches of the epoch.
        block: the rank's part of the global batch; without it `batch` is all of it.

    Returns:
        views (N, T, V*C*M) float32 of the block's own samples; masks of the masked views; `mix_partner` counts rows of
        the global batch.
    """
    block = Block(0, len(batch), len(batch)) if block is None else block
    own = _head(batch, len(block))
    blend = draw_blend(spec, Samples(own.sample_id, own.length), block.total, seed=seed, epoch=epoch, step=step)
    mixed_from = next((view.of for view in spec.views if view.mix is not None), None)
    drawn: dict[str, Drawn] = {}
    begun: dict[str, Begun] = {}
    for view in spec.views:
        part = batch if view.name == mixed_from else own
        samples = Samples(part.sample_id, part.length)
        drawn[view.name] = draw_view(view, samples, spec.frames, seed=seed, epoch=epoch, step=step)
        if view.of is None:
            begun[view.name] = Begun(render(part, drawn[view.name], spec.frames), drawn[view.name].steps)
    return assembled(own, spec, drawn, begun, block, blend)


@dataclass(frozen=True)
class Begun:
    """A view so far: flat, with the steps still to apply and what is masked already."""

    x: Tensor
    steps: tuple[Step, ...]
    mask: Tensor | None = None


def assembled(
    own: RaggedBatch,
    spec: ViewSpec,
    drawn: Mapping[str, Drawn],
    begun: Mapping[str, Begun],
    block: Block,
    blend: Blend | None,
) -> Views:
    """Finish the views that are begun, and make those of other views.

    Args:
        own: the block's own samples.
        spec: the views.
        drawn, begun: by view; what a mix takes a part of has the rows of `needed_rows`.
        block: the rank's part of the global batch.
        blend: how the own samples are mixed.
    """
    made: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    for view in spec.views:
        start = begun[view.name] if view.name in begun else Begun(_of(view, made, block, blend), drawn[view.name].steps)
        made[view.name], mask = apply_steps(start.x, start.steps)
        mask = _both(mask, start.mask)
        if view.of in masks:
            mask = _both(mask, masks[view.of])
        if mask is not None:
            masks[view.name] = mask
        targets.update({f"{view.name}/{k}": target[: len(block)] for k, target in drawn[view.name].targets.items()})
    device = own.label.device
    return Views(
        views={name: x[: len(block)] for name, x in made.items()},
        label=own.label,
        sample_id=own.sample_id,
        masks={name: mask[: len(block)] for name, mask in masks.items()},
        targets=targets,
        mix_partner=None if blend is None else torch.tensor(partner_rows(block, blend.shift), device=device),
        mix_weight=None if blend is None else torch.as_tensor(blend.weight, device=device).expand(len(block)).clone(),
    )


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _of(view: View, made: Mapping[str, Tensor], block: Block, blend: Blend | None) -> Tensor:
    """What the steps of a view of another one start from, flat."""
    assert view.of is not None
    x = made[view.of]
    if view.mix is None or blend is None:
        return x[: len(block)]
    positions = _partner_positions(block, blend.shift, x.device)
    if processor.passes_over(x) and isinstance(view.mix, PartnerMix):
        return processor.mix(x, positions, blend.params)
    mixed = view.mix.apply_mix(unflatten(x[: len(block)]), unflatten(x[positions]), blend)
    return flatten(mixed).contiguous()


def _partner_positions(block: Block, shift: int, device: torch.device) -> Tensor:
    """Where each sample's partner stands in the batch of `needed_rows`."""
    positions, end = [], len(block)
    for row in partner_rows(block, shift):
        if block.first <= row < block.stop:
            positions.append(row - block.first)
        else:
            positions.append(end)
            end += 1
    return torch.tensor(positions, device=device)


def _head(batch: RaggedBatch, count: int) -> RaggedBatch:
    if count == len(batch):
        return batch
    return RaggedBatch(
        batch.frames, batch.start[:count], batch.length[:count], batch.label[:count], batch.sample_id[:count]
    )

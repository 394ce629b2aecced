"""What of a view is hidden. Masks are bool, True where visible."""

import torch
from torch import Tensor

from pipelines.augmentations.draws import choose, subset, uniform
from shards.skeleton import BODY_PARTS, NUM_JOINTS


def part_table(device: torch.device | None = None) -> Tensor:
    """(parts, V) bool: which joints a body part has."""
    table = torch.zeros(len(BODY_PARTS), NUM_JOINTS, dtype=torch.bool)
    for row, part in enumerate(BODY_PARTS):
        table[row, list(part)] = True
    return table.to(device)


def draw_part_mask(ratio: float, segments: int, *, seed: int, epoch: int, step: int) -> Tensor:
    """Draw the body parts hidden in each segment, one draw for the whole batch: (segments, int(parts * ratio)) int64.

    Source: masked body parts by segment of JHang2020/PCM3 (3 of 5 parts in each of 8 segments).
    """
    counter = torch.tensor([step])
    draws = uniform(seed, epoch, counter, "masked", "parts", segments * len(BODY_PARTS))
    return subset(draws.view(segments, len(BODY_PARTS)), int(len(BODY_PARTS) * ratio))


def part_mask(parts: Tensor, frames: int) -> Tensor:
    """Visibility of the main person's joints, (T, V) bool, from the parts hidden in each segment."""
    table = part_table(parts.device)
    hidden = table[parts].any(dim=1)
    return ~hidden.repeat_interleave(frames // len(parts), dim=0)


def main_person_only(visible: Tensor) -> Tensor:
    """A (T, V) mask as (1, T, M, V, 1): the second person is always visible."""
    return torch.stack((visible, torch.ones_like(visible)), dim=1)[None, ..., None]


def draw_clip(sample_id: Tensor, clip: int, frames: int, *, seed: int, epoch: int) -> Tensor:
    """Visibility of a continuous run of `clip` frames, drawn for each sample: (N, T) bool (PCM3++'s clip view)."""
    draws = uniform(seed, epoch, sample_id, "clip", "start", 1)
    start = choose(draws, 0, frames - clip)
    time = torch.arange(frames, device=sample_id.device)
    return (time >= start) & (time < start + clip)

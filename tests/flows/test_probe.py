"""Online scores look on: a run that has them is, to the bit, the run that has none."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flows.pretrain
from flows.options import PretrainOptions
from flows.pretrain import pretrain
from models.encoders.encoder import Encoder
from models.training.checkpoint import load_checkpoint
from models.training.engine import Probe
from models.training.runlog import TIME_FIELDS, read_log
from pipelines.loaders.loader import ViewLoader
from shards.batch import Views

Make = Callable[..., PretrainOptions]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, tuple[int, ...], float]]:
    """Each batch that training has had: epoch, step, samples, and a sum over its views."""
    batches: list[tuple[int, int, tuple[int, ...], float]] = []

    class Watched(ViewLoader):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            for step, views in enumerate(super().epoch(epoch, first_step), first_step):
                if "key" in views.views:  # what evaluation sees has one view, "x"
                    total = float(torch.stack([x.double().sum() for x in views.views.values()]).sum())
                    batches.append((epoch, step, tuple(views.sample_id.tolist()), total))
                yield views

    monkeypatch.setattr("flows.build.ViewLoader", Watched)
    return batches


def test_a_run_with_probes_equals_one_without(
    options: Make, tmp_path: Path, seen: list[tuple[int, int, tuple[int, ...], float]]
) -> None:
    ends, orders, lines = [], [], []
    for every in (0, 1):
        result = pretrain(options(tmp_path / str(every), f"train.probe_every={every}", "train.epochs=3"))
        ends.append(load_checkpoint(result.checkpoint))
        orders.append(list(seen))
        seen.clear()
        left_out = {*TIME_FIELDS, "probe"}
        log = read_log(tmp_path / str(every))
        assert [("probe" in line) for line in log] == [bool(every)] * 3
        lines.append([{name: value for name, value in line.items() if name not in left_out} for line in log])
    assert len(orders[0]) == 12
    assert orders[0] == orders[1]
    assert lines[0] == lines[1]
    for without, probed in ((ends[0].objective, ends[1].objective), (ends[0].optimizer, ends[1].optimizer)):
        assert without.keys() == probed.keys()
        assert all(torch.equal(tensor, probed[name]) for name, tensor in without.items())


def test_a_probe_leaves_mode_statistics_and_weights_of_the_encoder(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls = flows.pretrain._retrieval_probe, []

    def snapshot(encoder: nn.Module) -> tuple[list[bool], dict[str, Tensor], Tensor]:
        modes = [module.training for module in encoder.modules()]
        return modes, {name: x.clone() for name, x in encoder.state_dict().items()}, torch.get_rng_state()

    def watched(*arguments: Any) -> Probe:
        probe = make(*arguments)

        def call(encoders: Mapping[str, Encoder]) -> dict[str, float]:
            (encoder,) = encoders.values()
            before = snapshot(encoder)
            scores = probe(encoders)
            calls.append((before, snapshot(encoder)))
            return scores

        return call

    monkeypatch.setattr(flows.pretrain, "_retrieval_probe", watched)
    pretrain(options(tmp_path / "run", "train.probe_every=1"))
    assert len(calls) == 2
    for (modes, state, generator), (modes_after, state_after, generator_after) in calls:
        assert all(modes)
        assert modes_after == modes
        assert any("running" in name for name in state)
        assert all(torch.equal(state_after[name], x) for name, x in state.items())
        assert torch.equal(generator, generator_after)

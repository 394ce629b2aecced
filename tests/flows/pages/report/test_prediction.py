"""Predicted joints against the objective's own parts, put together by hand; errors against loops."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.build import build_objective
from flows.config import PretrainConfig, read_config
from flows.options import PretrainOptions
from flows.pages.report.pool import moments, read_items
from flows.pages.report.prediction import predictions, straight
from flows.pretrain import pretrain
from models.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from pipelines.loaders.labels import sample_facts
from pipelines.loaders.split import Item, open_split
from pipelines.views import make_views
from shards.batch import RaggedBatch, unflatten
from shards.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def items(store: Path) -> list[Item]:
    split = open_split(store, "ntu60", "xview", "test")
    facts = sample_facts(split)
    return read_items(split, facts, facts.sample_id[:3])


def parts(run: Path) -> tuple[PretrainConfig, Checkpoint]:
    path = latest_checkpoint(run)
    assert path is not None
    return read_config(run / "config.json"), load_checkpoint(path)


def frames(text: str, told: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(told["count"], told["bodies"], 25, 3) / 1000


def views_of(config: PretrainConfig, items: list[Item]) -> Any:
    length = torch.tensor([len(item.frames) for item in items])
    columns = [torch.tensor([getattr(item, name) for item in items]) for name in ("label", "sample_id")]
    flat = torch.from_numpy(np.concatenate([item.frames for item in items]))
    batch = RaggedBatch(flat, length.cumsum(0) - length, length, *columns)
    return make_views(batch, config.views.spec(config.data.streams), seed=config.train.seed, epoch=0, step=0)


def test_hidden_joints_are_those_that_encoder_prompt_and_decoder_give(run: Path, items: list[Item]) -> None:
    config, checkpoint = parts(run)
    objective = build_objective(config)
    objective.load_state_dict(checkpoint.objective)
    objective.eval()
    views = views_of(config, items)
    start = objective.draw(config.train.seed, 0, 0, len(items)).prompt_starts["prediction"]
    with torch.inference_mode():
        _, features = objective.encoder(views.views["masked"], objective.prompts.masked)
        (output,) = objective.decoder(objective.prompts.add(features, objective.prompts.prediction, start))
    expected, truth = unflatten(output).numpy(), unflatten(views.views["target"]).numpy()
    visible = unflatten(views.masks["masked"].expand_as(views.views["target"])).numpy().all(axis=-1)
    for row, told in enumerate(predictions(config, checkpoint, items)):
        at, there = moments(config.views.frames), told["bodies"]
        hidden = np.frombuffer(base64.b64decode(told["hidden"]), np.uint8).reshape(told["count"], there, 25) == 1
        assert hidden.any()
        assert (hidden == ~visible[row][at][:, :there]).all()
        np.testing.assert_allclose(frames(told["truth"], told), truth[row][at][:, :there], atol=0.00051)
        found = frames(told["predicted"], told)
        np.testing.assert_allclose(found[hidden], expected[row][at][:, :there][hidden], atol=0.0006)
        np.testing.assert_allclose(found[~hidden], truth[row][at][:, :there][~hidden], atol=0.00051)
        off = [
            100 * np.linalg.norm(expected[row, t, m, v] - truth[row, t, m, v])
            for t, m, v in zip(*np.nonzero(~visible[row]), strict=True)
            if truth[row, t, m].any()
        ]
        assert told["error"] == pytest.approx(np.mean(off), abs=0.06)


def test_frames_of_a_view_know_which_frame_of_the_sample_they_are_from(run: Path, items: list[Item]) -> None:
    config, checkpoint = parts(run)
    whole = config.model_copy(update={"views": config.views.model_copy(update={"min_ratio": 1.0})})
    for item, told, cropped in zip(
        items, predictions(whole, checkpoint, items), predictions(config, checkpoint, items), strict=True
    ):
        assert told["of"] == cropped["of"] == len(item.frames)
        # resizing samples at the middles of the new frames
        time = (np.arange(config.views.frames) + 0.5) * len(item.frames) / config.views.frames - 0.5
        assert told["at"] == np.rint(time.clip(0, len(item.frames) - 1)).astype(int).tolist()
        for at in (told["at"], cropped["at"]):
            assert len(at) == told["count"]
            assert at == sorted(at)
            assert 0 <= at[0] <= at[-1] < len(item.frames)


def test_a_straight_line_in_time_is_drawn_between_the_frames_that_show_a_joint() -> None:
    truth = np.random.default_rng(0).normal(size=(6, 1, 3, 2)).astype(np.float32)
    hidden = np.zeros((6, 1, 3), bool)
    hidden[2:4, 0, 0] = hidden[:2, 0, 1] = hidden[:, 0, 2] = True
    found = straight(truth, hidden)
    first, last = truth[1, 0, 0], truth[4, 0, 0]
    np.testing.assert_allclose(found[2, 0, 0], (2 * first + last) / 3, atol=1e-6)
    np.testing.assert_allclose(found[3, 0, 0], (first + 2 * last) / 3, atol=1e-6)
    np.testing.assert_allclose(found[:2, 0, 1], truth[[2, 2], 0, 1])
    assert not found[:, 0, 2].any()
    assert (found[~hidden] == truth[~hidden]).all()


def test_motion_comes_with_the_places_of_its_joints(
    options: Callable[..., PretrainOptions], items: list[Item], tmp_path: Path
) -> None:
    pretrain(options(tmp_path / "run", "train.epochs=1", streams=("motion",)))
    config, checkpoint = parts(tmp_path / "run")
    joints = config.model_copy(update={"data": config.data.model_copy(update={"streams": ("joint",)})})
    places = views_of(joints, items).views["target"]
    for row, told in enumerate(predictions(config, checkpoint, items)):
        assert told["stream"] == "motion"
        expected = unflatten(places)[row].numpy()[moments(config.views.frames)][:, : told["bodies"]]
        np.testing.assert_allclose(frames(told["still"], told), expected, atol=0.00051)


def test_a_prediction_of_motion_is_shown_as_the_places_that_it_says(
    options: Callable[..., PretrainOptions], items: list[Item], tmp_path: Path
) -> None:
    pretrain(options(tmp_path / "run", "train.epochs=1", method="mamp+tiny"))
    config, checkpoint = parts(tmp_path / "run")
    views = views_of(config, items)
    truth = unflatten(views.views["target"]).numpy()
    visible = unflatten(views.masks["masked"].expand_as(views.views["target"])).numpy().all(axis=-1)
    for row, told in enumerate(predictions(config, checkpoint, items)):
        at, there = moments(config.views.frames), told["bodies"]
        hidden = np.frombuffer(base64.b64decode(told["hidden"]), np.uint8).reshape(told["count"], there, 25) == 1
        present = truth[row][:, :there].any(axis=(2, 3))
        assert hidden.any()
        assert (hidden == (~visible[row][:, :there] & present[:, :, None])[at]).all()
        np.testing.assert_allclose(frames(told["truth"], told), truth[row][at][:, :there], atol=0.00051)
        np.testing.assert_allclose(
            frames(told["predicted"], told)[~hidden], truth[row][at][:, :there][~hidden], atol=0.00051
        )
        assert 0 < told["error"] < 1000


def test_what_cannot_predict_says_so(run: Path, items: list[Item]) -> None:
    config, checkpoint = parts(run)
    without = config.objective.model_copy(update={"prediction_weight": 0.0, "pairs": ("base",)})
    with pytest.raises(ConfigError, match="predicts nothing"):
        predictions(config.model_copy(update={"objective": without}), checkpoint, items)
    for gone, message in (("decoder.", "has no decoder"), ("prompts.prediction", "has no prompts.prediction")):
        state = {name: x for name, x in checkpoint.objective.items() if not name.startswith(gone)}
        with pytest.raises(CheckpointError, match=message):
            predictions(config, replace(checkpoint, objective=state), items)
    queueless = {name: x for name, x in checkpoint.objective.items() if not name.startswith(("queue", "key_"))}
    told = predictions(config, replace(checkpoint, objective=queueless), items)
    assert told == predictions(config, checkpoint, items)

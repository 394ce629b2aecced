from dataclasses import replace

import numpy as np
import pytest
import torch

from models.evaluation.features import Features
from models.evaluation.fusion import STREAMS, WEIGHTS, fuse
from shards.errors import ConfigError

CLASSES = 4


def streams(samples: int = 60, seed: int = 0) -> dict[str, Features]:
    """Noisy scores, each stream's in an order of its own; class 3 has no samples."""
    generator = torch.Generator().manual_seed(seed)
    sample_id = torch.randperm(500, generator=generator)[:samples]
    label = sample_id % (CLASSES - 1)
    result = {}
    for name in STREAMS:
        scores = torch.randn(samples, CLASSES, generator=generator)
        scores[torch.arange(samples), label] += 1
        order = torch.randperm(samples, generator=generator)
        result[name] = Features(scores[order], label[order], sample_id[order])
    return result


def slow(given: dict[str, Features], weights: tuple[float, ...]) -> tuple[float, list[float]]:
    """Accuracy, and that of the classes that have samples, sample by sample."""
    hits: dict[int, list[bool]] = {}
    for number, label in zip(given["joint"].sample_id.tolist(), given["joint"].label.tolist(), strict=True):
        total = np.zeros(CLASSES)
        for name, weight in zip(STREAMS, weights, strict=True):
            row = given[name].sample_id.tolist().index(number)
            total += weight * given[name].values[row].double().numpy()
        hits.setdefault(label, []).append(int(total.argmax()) == label)
    return float(np.mean([hit for row in hits.values() for hit in row])), [
        float(np.mean(hits[label])) for label in sorted(hits)
    ]


def test_sums_of_both_weightings_are_those_of_a_loop_over_samples() -> None:
    given = streams()
    result = fuse(given, CLASSES)
    for accuracy, per_class, weights in [
        (result.weighted, result.weighted_per_class, (0.6, 0.6, 0.4)),
        (result.equal, result.equal_per_class, (1.0, 1.0, 1.0)),
    ]:
        expected, classes = slow(given, weights)
        assert accuracy == pytest.approx(expected)
        assert per_class[:3] == pytest.approx(classes)
        assert per_class[3] is None
    assert result.alone == {
        name: pytest.approx(slow(dict.fromkeys(STREAMS, given[name]), WEIGHTS)[0]) for name in STREAMS
    }
    assert result.weighted > max(result.alone.values())


def test_each_weight_belongs_to_its_stream() -> None:
    # by weight 0.6, 0.6, 0.4: 0.6 < 0.64 of the motion stream, but 0.6 + 0.06 > 0.64
    one = torch.tensor([0]), torch.tensor([7])
    given = {
        "joint": Features(torch.tensor([[1.0, 0.0]]), *one),
        "bone": Features(torch.tensor([[0.1, 0.0]]), *one),
        "motion": Features(torch.tensor([[0.0, 1.6]]), *one),
    }
    result = fuse(given, 2)
    assert (result.weighted, result.equal) == (1.0, 0.0)
    without = given | {"bone": given["motion"], "motion": given["bone"]}
    assert fuse(without, 2).weighted == 0.0


def test_scores_are_summed_before_any_softmax() -> None:
    one = torch.tensor([1]), torch.tensor([0])
    sure, doubtful = torch.tensor([[0.0, 9.0]]), torch.tensor([[3.0, 0.0]])
    given = {"joint": Features(sure, *one), "bone": Features(doubtful, *one), "motion": Features(doubtful, *one)}
    assert (sure + 2 * doubtful).argmax() == 1
    assert (sure.softmax(1) + 2 * doubtful.softmax(1)).argmax() == 0
    assert fuse(given, 2).equal == 1.0


def test_a_sample_that_a_stream_lacks_is_named() -> None:
    given = streams()
    short = given["bone"]
    lost = short.sample_id[:2].sort().values.tolist()
    given["bone"] = Features(short.values[2:], short.label[2:], short.sample_id[2:])
    with pytest.raises(ConfigError, match=f"bone: found no scores of samples {lost[0]}, {lost[1]}, which joint has"):
        fuse(given, CLASSES)
    given = streams()
    joint = given["joint"]
    given["joint"] = Features(joint.values[8:], joint.label[8:], joint.sample_id[8:])
    with pytest.raises(ConfigError, match=r"joint: found no scores of samples .* and 3 more, which bone has"):
        fuse(given, CLASSES)


def test_streams_that_do_not_fit_are_refused() -> None:
    given = streams()
    motion = given["motion"]
    bad_values = motion.values.clone()
    bad_values[3, 1] = torch.inf
    twice = motion.sample_id.clone()
    twice[0] = twice[1]
    for changed, message in [
        (replace(motion, values=bad_values), rf"motion: found NaN or infinity in samples {motion.sample_id[3]},"),
        (replace(motion, sample_id=twice), rf"motion: found samples {twice[1]} more than once"),
        (replace(motion, label=(motion.label + 1) % 3), "motion: found other labels than joint has"),
        (replace(motion, label=motion.label + 4), r"motion: found labels 4\.\.6"),
        (replace(motion, values=motion.values[:, :2]), r"motion: found scores of shape \(60, 2\), expected \(N, 4\)"),
        (Features(motion.values[:0], motion.label[:0], motion.sample_id[:0]), "motion: found no samples"),
    ]:
        with pytest.raises(ConfigError, match=message):
            fuse(given | {"motion": changed}, CLASSES)


def test_missing_and_unknown_streams_are_refused() -> None:
    given = streams()
    with pytest.raises(ConfigError, match="found streams bone, joint, expected joint, bone, motion"):
        fuse({name: given[name] for name in ("joint", "bone")}, CLASSES)
    with pytest.raises(ConfigError, match="found streams bone, depth, joint, motion"):
        fuse(given | {"depth": given["joint"]}, CLASSES)

"""Joint maps against weighted means written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ConfigError
from shards.joints import JointMap, Origin, joint_map
from shards.skeleton import JOINT_NAMES

NAMES = ("a", "b", "c", "d")


def origins(**more: Origin) -> dict[str, Origin]:
    return dict.fromkeys(JOINT_NAMES, "a") | {name.replace("_", " "): origin for name, origin in more.items()}


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_every_joint_is_the_weighted_mean_of_its_origins(seed: int, joints: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0, 1, (25, joints)) * (rng.uniform(size=(25, joints)) < 0.4)
    weights[:, 0] += weights.sum(axis=1) == 0
    weights /= weights.sum(axis=1, keepdims=True)
    frames = rng.normal(size=(3, 2, joints, 3))
    mapped = JointMap(weights)(frames)
    np.testing.assert_allclose(mapped, np.einsum("vj,tsjc->tsvc", weights, frames), rtol=1e-12, atol=1e-12)


def test_a_joint_of_a_single_origin_is_copied_bit_by_bit() -> None:
    joints = np.array([[-0.0, 0.1, np.inf], [1e-300, -5e-324, 3.0], [0.3, 0.7, np.nan], [0.1, 0.2, 0.3]])
    mapped = joint_map(NAMES, origins(head="b", neck="c"))(joints)
    assert mapped[3].tobytes() == joints[1].tobytes()
    assert mapped[2].tobytes() == joints[2].tobytes()
    assert mapped[0].tobytes() == joints[0].tobytes()


def test_names_may_stand_for_a_copy_a_mean_or_weights() -> None:
    joints = np.arange(12.0).reshape(4, 3)
    mapped = joint_map(NAMES, origins(head=("b", "d"), neck={"a": 0.25, "c": 0.75}, left_hip="d"))(joints)
    np.testing.assert_array_equal(mapped[JOINT_NAMES.index("head")], (joints[1] + joints[3]) / 2)
    np.testing.assert_array_equal(mapped[JOINT_NAMES.index("neck")], 0.25 * joints[0] + 0.75 * joints[2])
    np.testing.assert_array_equal(mapped[JOINT_NAMES.index("left hip")], joints[3])
    assert mapped.shape == (25, 3)


def test_an_absent_body_stays_absent() -> None:
    mapped = joint_map(NAMES, origins(head=NAMES))(np.zeros((5, 2, 4, 3)))
    assert mapped.shape == (5, 2, 25, 3)
    assert not mapped.any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tail": "a"}, "found tail missing or unknown"),
        ({"head": "e"}, "found 'e' in head, expected one of a, b, c, d"),
        ({"head": {"a": 0.5, "b": 0.4}}, "of head, expected a sum of 1"),
        ({"head": {"a": np.nan}}, "of head, expected a sum of 1"),
        ({"head": ()}, "of head, expected a sum of 1"),
    ],
)
def test_a_map_that_is_none_is_refused(changed: dict[str, Origin], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        joint_map(NAMES, origins() | changed)


def test_a_map_has_25_rows_and_meets_as_many_joints_as_it_has_columns() -> None:
    with pytest.raises(ConfigError, match=r"found a table \(24, 4\)"):
        JointMap(np.full((24, 4), 0.25))
    with pytest.raises(ConfigError, match="head missing"):
        joint_map(NAMES, {name: "a" for name in JOINT_NAMES if name != "head"})
    with pytest.raises(ConfigError, match="two joints of one name"):
        joint_map(("a", "a"), origins())
    with pytest.raises(ConfigError, match="found 5 joints, expected 4"):
        joint_map(NAMES, origins())(np.zeros((2, 5, 3)))

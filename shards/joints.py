"""From another skeleton's joints to the 25 of Kinect v2, which everything here works on."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shards.errors import ConfigError
from shards.skeleton import JOINT_NAMES, NUM_JOINTS

Origin = str | Sequence[str] | Mapping[str, float]
"""What a joint is made of: another one, the mean of several, or their weighted mean."""


class JointMap:
    """Each joint as a weighted mean of the source's joints; a joint of a single origin is copied bit by bit.

    Args:
        weights: (25, J), row v the weights of joint v.

    Raises:
        ConfigError: not 25 rows, or a row whose weights are not finite or do not sum to 1.
    """

    def __init__(self, weights: npt.ArrayLike) -> None:
        table = np.array(weights, np.float64)
        if table.ndim != 2 or len(table) != NUM_JOINTS:
            raise ConfigError(f"joint map: found a table {table.shape}, expected ({NUM_JOINTS}, joints of the source)")
        for name, row in zip(JOINT_NAMES, table, strict=True):
            if not np.isfinite(row).all() or abs(row.sum() - 1) > 1e-9:
                raise ConfigError(f"joint map: found weights {row[row != 0]} of {name}, expected a sum of 1")
        self.weights = table
        # (25, K): the up to K origins of each joint, and their weights; unused places repeat the first with weight 0
        most = int(np.count_nonzero(table, axis=1).max())
        self._origins = np.array([_padded(np.flatnonzero(row), most) for row in table])
        used = np.arange(most) < np.count_nonzero(table, axis=1)[:, None]
        self._shares = np.where(used, np.take_along_axis(table, self._origins, axis=1), 0.0)[..., None]
        self._mixed = np.flatnonzero(np.count_nonzero(table, axis=1) > 1)

    def __call__(self, joints: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map the joints (..., J, C) of any number of frames and bodies to (..., 25, C).

        A body of zeros, which means that there is none, stays one. A joint that the source has not seen must have been
        filled before, for it would pull every mean it is part of.
        """
        if joints.shape[-2] != self.weights.shape[1]:
            raise ConfigError(f"joint map: found {joints.shape[-2]} joints, expected {self.weights.shape[1]}")
        mapped = joints[..., self._origins[:, 0], :]
        if len(self._mixed):
            origins, shares = self._origins[self._mixed], self._shares[self._mixed]
            # One term after the other: a matrix product would round by the machine's BLAS. Infinite numbers become NaN,
            # which whoever reads the result refuses.
            with np.errstate(invalid="ignore"):
                mean = shares[:, 0] * joints[..., origins[:, 0], :]
                for k in range(1, origins.shape[1]):
                    mean += shares[:, k] * joints[..., origins[:, k], :]
            mapped[..., self._mixed, :] = mean
        return mapped


def _padded(origins: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    return np.pad(origins, (0, length - len(origins)), constant_values=origins[0])


def joint_map(names: Sequence[str], origins: Mapping[str, Origin]) -> JointMap:
    """A map by names.

    Args:
        names: of the source's joints, in the order of its files.
        origins: for each of `shards.skeleton.JOINT_NAMES`, what it is made of.

    Raises:
        ConfigError: a joint is missing or unknown, or weights do not sum to 1.
    """
    if len(set(names)) != len(names):
        raise ConfigError("joint map: found two joints of one name, expected different names")
    if wrong := sorted(set(JOINT_NAMES) ^ origins.keys()):
        raise ConfigError(f"joint map: found {', '.join(wrong)} missing or unknown, expected Kinect v2's 25 joints")
    weights = np.zeros((NUM_JOINTS, len(names)))
    for row, joint in enumerate(JOINT_NAMES):
        for name, weight in _shares(origins[joint]).items():
            if name not in names:
                raise ConfigError(f"joint map: found {name!r} in {joint}, expected one of {', '.join(names)}")
            weights[row, names.index(name)] = weight
    return JointMap(weights)


def _shares(origin: Origin) -> Mapping[str, float]:
    if isinstance(origin, str):
        return {origin: 1.0}
    return origin if isinstance(origin, Mapping) else dict.fromkeys(origin, 1 / len(origin) if origin else 0.0)

"""The compiled part of `pipelines.preprocessing.quality`."""

import numpy as np
import numpy.typing as npt

from pipelines.compiled import kernel

MAX_IDS = 64
"""Different ids that are told apart. A file has some ten; of more it gives up: its search is a plain list."""


@kernel("(Array(int64, 1, 'A', True), Array(int64, 2, 'A', True))")
def survey(num_bodies: npt.NDArray[np.int64], body_ids: npt.NDArray[np.int64]) -> tuple[int, int, int, int]:
    """Empty frames, bodies of the fullest frame, different ids (-1: too many to count) and switches.

    Args:
        num_bodies: (T,) bodies listed in each frame.
        body_ids: (T, S), 0 where the format has none.
    """
    num_frames, num_slots = body_ids.shape
    seen = np.empty(MAX_IDS, np.int64)
    empty = fullest = ids = switches = before = 0
    for t in range(num_frames):
        fullest = max(fullest, num_bodies[t])
        empty += num_bodies[t] == 0
        listed = min(num_bodies[t], num_slots)
        for s in range(listed):
            one = body_ids[t, s]
            if s < before and body_ids[t - 1, s] == one:
                continue
            switches += s < before
            if one == 0 or ids < 0:
                continue
            known = 0
            while known < ids and seen[known] != one:
                known += 1
            if known == MAX_IDS:
                ids = -1
            elif known == ids:
                seen[ids] = one
                ids += 1
        before = listed
    return empty, fullest, ids, switches

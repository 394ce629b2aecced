"""The steps of Uason-Chen/CTR-GCN for NTU RGB+D (maoyunyao/MAMP has the same): bodies by id, noise, two actors.

Every function is Scene -> Scene. Files with a single body id pass most of them unchanged. Three recordings on which the
reference stops are refused by name: no frame, no body in any frame, and several bodies none of which is long enough.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.steps import Frames, Scene, Track, no_body, with_persons
from shards.errors import raw_error
from shards.schema import RawSequence
from shards.skeleton import NUM_COORDINATES, NUM_PERSONS, SPINE_MID

SHORT = 11
"""Frames; a body that is there for so many or fewer is a phantom."""

WIDTH_TO_HEIGHT = 0.8
"""A frame is noisy in which a body is wider than this part of its height."""

NOISY_SHARE = 0.69754
"""A body with at least this share of noisy frames is furniture."""


def drop_empty_frames(scene: Scene) -> Scene:
    """Leave out the frames that list no body."""
    raw = scene.raw
    listed = raw.num_bodies > 0
    count = int(np.count_nonzero(listed))
    if count == len(listed):
        return scene
    if not count:
        raise no_body(raw)
    left = replace(raw, frames=raw.frames[listed], num_bodies=raw.num_bodies[listed], body_ids=raw.body_ids[listed])
    remark = f"left out {len(listed) - count} of {len(listed)} frames, which list no body"
    return scene._replace(raw=left, frames=left.frames, repairs=(*scene.repairs, remark))


def bodies_by_id(scene: Scene) -> Scene:
    """Gather the frames of each body id, by first appearance; after a gap they come too early, as in the reference."""
    raw = scene.raw
    listed = np.arange(raw.frames.shape[1]) < raw.num_bodies[:, None]
    ids = raw.body_ids[listed]
    if not len(ids):
        raise no_body(raw)
    joints = raw.frames[listed].astype(np.float32)
    if (ids == ids[0]).all():
        tracks = [Track(joints, int(np.argmax(listed.any(axis=1))), 0.0)]
    else:
        tracks = _tracks(ids, joints, np.nonzero(listed)[0])
    _refuse_overrun(raw, tracks)
    return scene._replace(tracks=tuple(tracks), several=len(tracks) > 1)


def _tracks(ids: npt.NDArray[np.int64], joints: Frames, numbers: npt.NDArray[np.int64]) -> list[Track]:
    _, starts, inverse = np.unique(ids, return_index=True, return_inverse=True)
    tracks = []
    for which in np.argsort(starts):
        frames = joints[inverse == which]
        tracks.append(Track(frames, int(numbers[starts[which]]), motion(frames)))
    return tracks


def _refuse_overrun(raw: RawSequence, tracks: list[Track]) -> None:
    for track in tracks:
        if track.last >= len(raw.frames):
            found = f"a body id {len(track.frames)} times from frame {track.first + 1} of {len(raw.frames)} on"
            raise raw_error(raw.key, "", found, "an id once in a frame, as the recipe ctrgcn tells bodies apart by id")


def motion(frames: Frames) -> float:
    """Variance of x, y and z over all frames and joints of (n, V, C) float32, in sum; square metres."""
    # Over the first axis of a table in float32, as in the reference: the order of two actors can hang on the last bits.
    return float(frames.reshape(-1, NUM_COORDINATES).var(axis=0).sum())


def drop_short(scene: Scene, frames: int = SHORT) -> Scene:
    """Leave out the bodies that are there for at most so many frames, if there is more than one id.

    Raises:
        RawInputError: then none is left (the reference fails with an IndexError).
    """
    if not scene.several:
        return scene
    left = tuple(track for track in scene.tracks if len(track.frames) > frames)
    if not left:
        longest = max(len(track.frames) for track in scene.tracks)
        found = f"{len(scene.tracks)} bodies of at most {longest} frames"
        raise raw_error(scene.raw.key, "", found, f"one of more than {frames}: the recipe ctrgcn drops shorter ones")
    dropped = scene.dropped._replace(length=len(scene.tracks) - len(left))
    return scene._replace(tracks=left, dropped=dropped)


def drop_wide(scene: Scene, width_to_height: float = WIDTH_TO_HEIGHT, share: float = NOISY_SHARE) -> Scene:
    """Leave out the bodies that are too wide in too large a share of their frames, as long as another is left.

    Of the others with such frames, the motion becomes the smaller of the motions with and without these.
    """
    left = list(scene.tracks)
    for track in scene.tracks:
        if len(left) == 1:
            break
        wide = _is_wide(track.frames, width_to_height)
        noisy = int(np.count_nonzero(wide))
        if not noisy:
            continue
        # By identity: tracks hold arrays, which have no plain equality.
        at = next(number for number, other in enumerate(left) if other is track)
        if noisy / len(wide) >= share:
            del left[at]
        elif noisy < len(wide):
            left[at] = track._replace(motion=min(track.motion, motion(track.frames[~wide])))
    dropped = scene.dropped._replace(spread=len(scene.tracks) - len(left))
    return scene._replace(tracks=tuple(left), dropped=dropped)


def _is_wide(frames: Frames, width_to_height: float) -> npt.NDArray[np.bool_]:
    # Frames last: 9 microseconds for 100 frames, where the ranges along the strided joints take 140.
    planes = frames.transpose(2, 1, 0)[:2].copy()
    width, height = planes.max(axis=1) - planes.min(axis=1)
    return np.asarray(width > np.float32(width_to_height) * height)


def rank_by_motion(scene: Scene) -> Scene:
    """Order the bodies by motion, the largest first; of equal ones the one that appears first."""
    return scene._replace(tracks=tuple(sorted(scene.tracks, key=lambda track: -track.motion)))


def fill_actors(scene: Scene, actors: int = NUM_PERSONS) -> Scene:
    """Put the bodies, in their order, each into the first actor whose interval it does not overlap; else leave it out.

    One common frame is no overlap, and the later body overwrites it. An actor's interval is the hull of its bodies; the
    second one's begins as [0, 0], so that it can keep out a body which would fit.
    """
    first, *others = scene.tracks
    frames = np.zeros((len(scene.raw.frames), actors, *first.frames.shape[1:]), np.float32)
    frames[first.first : first.last + 1, 0] = first.frames
    hulls = [(first.first, first.last)] + [(0, 0)] * (actors - 1)
    overlapping = 0
    for track in others:
        free = (a for a, (start, end) in enumerate(hulls) if min(end, track.last) - max(start, track.first) <= 0)
        actor = next(free, None)
        if actor is None:
            overlapping += 1
            continue
        frames[track.first : track.last + 1, actor] = track.frames
        hulls[actor] = (min(hulls[actor][0], track.first), max(hulls[actor][1], track.last))
    return with_persons(scene, frames)._replace(dropped=scene.dropped._replace(overlap=overlapping))


def drop_zero_frames(scene: Scene) -> Scene:
    """Leave out the frames whose coordinates sum to exactly 0, if there was more than one id."""
    if not scene.several:
        return scene
    persons = scene.frames if len(scene.tracks) > 1 else scene.frames[:, :1]
    there = persons.reshape(len(persons), -1).sum(axis=1) != 0
    count = int(np.count_nonzero(there))
    if count == len(there):
        return scene
    remark = f"left out {len(there) - count} of {len(there)} frames, in which no chosen body is there"
    return scene._replace(frames=scene.frames[there], repairs=(*scene.repairs, remark))


def translate(scene: Scene, joint: int = SPINE_MID) -> Scene:
    """Make the joint of person 0, in the first frame that shows this person, the origin of the whole recording.

    With two persons, frames in which one is not there stay zero; the frames of a single person all move, as in the
    reference.

    Raises:
        RawInputError: person 0 is never there.
    """
    frames = np.asarray(scene.frames, np.float32)
    shown = np.flatnonzero(frames[:, 0].any(axis=(1, 2))) if not frames[0, 0].any() else (0,)
    if not len(shown):
        raise raw_error(scene.raw.key, "", f"no main body in any of {len(frames)} frames", "one in at least one")
    moved = frames - frames[shown[0], 0, joint]
    if len(scene.tracks) > 1 or (not scene.tracks and scene.bodies > 1):
        moved[frames.reshape(*frames.shape[:2], -1).sum(axis=2) == 0] = 0
    else:
        moved[:, 1:] = 0
    return scene._replace(frames=moved)

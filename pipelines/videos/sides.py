"""The untrimmed videos of one side of a protocol, with their labelled actions."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.recipes import Recipe
from pipelines.preprocessing.recipes import recipe as recipe_of
from pipelines.videos.labels import Labels, Overlaps, frame_labels
from shards.catalog import dataset as dataset_of
from shards.errors import ConfigError, StoreError
from shards.manifest import STORE, read_manifest
from shards.places import Place
from shards.protocols import Side, split
from shards.schema import SampleInfo, Segment
from shards.store import Store, open_store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """An untrimmed video; its frames stay in the store.

    Attributes:
        row: of the store.
        info: what its name tells.
        actions: labelled ones, in the order of their rows; at least one.
        label: (T,) int64, 0 for background, an action's label + 1.
        overlaps: among its actions.
    """

    row: int
    info: SampleInfo
    actions: tuple[Segment, ...]
    label: Labels
    overlaps: Overlaps

    @property
    def key(self) -> str:
        return self.info.key

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Videos:
    """The videos of one side, in the order of their keys.

    Attributes:
        store: their frames: coordinates in metres as the raw files have them, whatever the recipe.
        recipe: how the store's trimmed actions are prepared.
        num_classes: of actions; frames have one class more.
        videos: those with at least one labelled action.
        unlabelled: keys of the videos that were left out because they have none. What they show is not known, so that
            their frames would train, and be scored, as background.
    """

    store: Store
    recipe: Recipe
    num_classes: int
    videos: tuple[Video, ...]
    unlabelled: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(video.key for video in self.videos)

    @property
    def num_frames(self) -> int:
        return sum(len(video) for video in self.videos)

    @cached_property
    def overlaps(self) -> Overlaps:
        """Of all videos together."""
        return sum((video.overlaps for video in self.videos), Overlaps())

    def frames(self, number: int) -> npt.NDArray[np.float32]:
        """All frames of video `number` of this side, (T, M, V, C) in metres; StoreError when they cannot be read."""
        return self.store.sample(self.videos[number].row)

    def actions(self) -> npt.NDArray[np.int64]:
        """The ground truth, (A, 5): number of the video, class from 1, first frame, stop frame, confidence."""
        rows = [
            (number, action.label + 1, action.start, action.end, action.confidence)
            for number, video in enumerate(self.videos)
            for action in video.actions
        ]
        return np.array(rows, np.int64).reshape(-1, 5)

    def subset(self, numbers: Sequence[int]) -> "Videos":
        """Only these videos, such as one part of a side that is divided for validation."""
        return replace(self, videos=tuple(self.videos[number] for number in numbers), unlabelled=())


def open_videos(folder: Place, dataset: str, protocol: str, side: Side) -> Videos:
    """The videos of a side; tables are read, frames are not.

    Args:
        folder: of a finished store, here or remote.
        dataset: of an untrimmed source.
        protocol: of the data set.
        side: "train" or "test".

    Raises:
        ConfigError: unknown data set or protocol, or the data set's source is trimmed.
        StoreError: the store is absent, damaged or of another source; an action has a label outside the catalogue or
            frames outside its video; the side has no video, or none with a labelled action.
    """
    data = dataset_of(dataset)
    manifest, store = read_manifest(folder), open_store(folder / STORE)
    if manifest.source != data.source:
        raise StoreError(f"{folder}: found a store of {manifest.source}, expected one of {data.source} for {dataset}")
    if store.segments is None:
        raise ConfigError(f"{folder}: found trimmed samples of {dataset}, expected untrimmed videos with their actions")
    actions = _by_video(store, data.num_classes)
    sides = [split(dataset, protocol, info) for info in store.infos]
    rows = [row for row, found in enumerate(sides) if found == side]
    where = f"{folder}: {dataset} {protocol} {side}"
    if not rows:
        raise StoreError(f"{where}: found no video, expected at least one")
    unlabelled = tuple(store.infos[row].key for row in rows if not actions[row])
    videos = tuple(_video(store, row, actions[row]) for row in rows if actions[row])
    if not videos:
        raise StoreError(f"{where}: found no labelled action in {len(rows)} videos, expected at least one")
    if unlabelled:
        _log.warning("%s: left out %d videos without a labelled action: %s", where, len(unlabelled), unlabelled)
    return Videos(store, recipe_of(manifest.recipe, manifest.source), data.num_classes, videos, unlabelled)


def _video(store: Store, row: int, actions: Sequence[Segment]) -> Video:
    num_frames = int(store.offsets[row + 1] - store.offsets[row])
    label, overlaps = frame_labels(num_frames, actions)
    return Video(row, store.infos[row], tuple(actions), label, overlaps)


def _by_video(store: Store, num_classes: int) -> defaultdict[int, list[Segment]]:
    """Row of the store -> its actions, each checked."""
    found: defaultdict[int, list[Segment]] = defaultdict(list)
    lengths = np.diff(store.offsets).tolist()
    for action in store.segments or ():
        if not 0 <= action.video < len(store):
            raise StoreError(f"{store.path}: found an action of video {action.video}, expected one of {len(store)}")
        key, length = store.infos[action.video].key, lengths[action.video]
        where = f"{store.path}: video {key}, row {action.row + 1} of its labels"
        if not 0 <= action.label < num_classes:
            raise StoreError(f"{where}: found label {action.label}, expected 0 to {num_classes - 1}")
        if not 0 <= action.start < action.end <= length:
            raise StoreError(
                f"{where}: found frames {action.start} to {action.end}, expected some within 0 to {length}"
            )
        found[action.video].append(action)
    return found

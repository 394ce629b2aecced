"""What AimCLR sees (Levigty/AimCLR)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from flows.config import VIEWS, ViewsConfig
from models.objectives.objective import one_stream
from pipelines.augmentations.noise import GaussianBlur, GaussianNoise
from pipelines.augmentations.spatial import AxisMask, Flip, Rotation, Shear
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import CentreCrop, Reverse, TemporalShift
from pipelines.views.spec import MAX_FRAMES, View, ViewSpec
from shards.skeleton import Stream


@VIEWS.add
class AimCLRViewsConfig(ViewsConfig):
    """ "query" and "key" moderately augmented, "extreme" by all augmentations.

    Attributes:
        frames: T of every view.
    """

    kind: Literal["aimclr"] = "aimclr"
    frames: int = Field(default=50, ge=1, le=MAX_FRAMES)

    def spec(self, streams: Sequence[Stream]) -> ViewSpec:
        """The three views.

        Raises:
            ConfigError: several streams.
        """
        whole = CentreCrop(ratio=1.0)
        crop, shear = TemporalShift(max_frames=self.frames // 6, edges="reflect"), Shear(amplitude=0.5)
        to_stream = ToStream(stream=one_stream("views 'aimclr'", streams))
        extreme = (
            Flip(probability=0.5),
            Rotation(),
            shear,
            AxisMask(probability=0.5),
            crop,
            Reverse(probability=0.5),
            GaussianNoise(probability=0.5),
            GaussianBlur(probability=0.5, released=True),
        )
        return ViewSpec(
            frames=self.frames,
            views=(
                View(name="query", operations=(whole, crop, shear, to_stream)),
                View(name="key", operations=(whole, crop, shear, to_stream)),
                View(name="extreme", operations=(whole, *extreme, to_stream)),
            ),
        )

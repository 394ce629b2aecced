"""Fields that the options of several flows share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from shards.frozen import Frozen
from shards.paths import expand_home, expand_place

LocalPath = Annotated[Path, AfterValidator(expand_home)]
"""A path of this machine, whose `~` is a home folder."""

PlaceText = Annotated[str, BeforeValidator(str), AfterValidator(expand_place)]
"""A path or URL; JSON and Prefect's forms know only text."""

LoaderKind = Literal["auto", "resident", "stream", "dali"]


class LoaderOptions(Frozen):
    """How samples reach the device. It changes speed and memory, never a sample, a view or their order.

    Attributes:
        loader: "resident" holds the split on the device, "stream" reads tar shards as it goes, "dali" has NVIDIA DALI
            make what it can of the views; "auto" takes resident when the split's frames fit in a quarter of the
            device's memory, else stream.
        workers: threads that make batches ahead; None for none on the CPU, whose cores the trainer needs, and one else.
        cache: folder where remote shards stay for the next epoch and run; without it they pass through a temporary one.
        cache_gb: that the cache takes at most, in 10^9 bytes; None for as much as the disk has.
    """

    loader: LoaderKind = "auto"
    workers: int | None = Field(None, ge=0)
    cache: LocalPath | None = None
    cache_gb: float | None = Field(None, gt=0, le=1e9)

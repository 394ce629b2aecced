"""The command `plan`: what a conversion would find, make, need and take."""

from collections.abc import Sequence

from pipelines.planning.forecast import plan
from pipelines.planning.text import summary
from shards.encoding import Storage
from shards.places import Place


def show_plan(
    source: str,
    raw: Sequence[Place | str],
    out: Place | str | None = None,
    recipe: str = "pcm3",
    dtype: Storage = "float32",
    samples_per_shard: int = 1024,
) -> str:
    """The forecast of `preprocess` with the same arguments, as text; writes nothing.

    Args:
        out: folder that would hold the stores; None leaves out what is there already and the free disk.

    Raises:
        ConfigError, RawInputError: as `pipelines.planning.forecast.plan`.
    """
    return summary(plan(source, raw, out, recipe, dtype, samples_per_shard))

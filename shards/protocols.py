"""The splits: on which side of a protocol a sample stands. The rules themselves stand with their data sets."""

from shards.catalog import dataset
from shards.errors import ConfigError, raw_error
from shards.schema import SampleInfo
from shards.sources import Side, video_key

__all__ = ["Side", "split", "video_key"]


def split(dataset_name: str, protocol: str, info: SampleInfo) -> Side | None:
    """Side of a sample in a protocol, or None when the data set does not hold the sample.

    An untrimmed video and every action trimmed from it stand on the same side.

    Raises:
        ConfigError: unknown data set or protocol; a rule that gives no side.
        RawInputError: the protocol's official list or rule does not know the sample, or the data set not its label.
    """
    data = dataset(dataset_name)
    if protocol not in data.rules:
        known = ", ".join(data.protocols)
        raise ConfigError(f"unknown protocol {protocol!r} of {dataset_name}, expected one of {known}")
    side = data.rules[protocol](info)
    if side not in ("train", "test", None):
        raise ConfigError(f"rule {dataset_name}/{protocol}: found {side!r}, expected 'train', 'test' or None")
    if side is not None and info.label >= data.num_classes:
        raise raw_error(
            info.key, "name", f"label {info.label} in {dataset_name}/{protocol}", f"one below {data.num_classes}"
        )
    return side

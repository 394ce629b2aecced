"""Cells: the samples that stand on the same side in every protocol. Either side of any protocol is a union of cells."""

from shards.catalog import dataset, source
from shards.protocols import Side, split
from shards.schema import SampleInfo


def memberships(source_name: str, info: SampleInfo) -> dict[str, str]:
    """Side of a sample in every protocol of every data set that holds it: "ntu60/xsub" -> "train".

    Raises:
        ConfigError: unknown source.
        RawInputError: an official list does not know the sample.
    """
    return {f"{data}/{protocol}": side for data, protocol, side in _sides(source_name, info)}


def cell_name(source_name: str, info: SampleInfo) -> str:
    """Folder name of a sample's cell, such as `ntu60-xsub-train_xview-test_xset-train`.

    Equal for two samples of a source if and only if their memberships are: a later data set repeats a protocol only
    where its side differs from that of the first, which no official NTU sample does.
    """
    sides = _sides(source_name, info)
    parts = list(dict.fromkeys(f"{protocol}-{side}" for _, protocol, side in sides))
    prefix = [sides[0][0]] if len(source(source_name).datasets) > 1 else []
    return "-".join([*prefix, "_".join(parts)])


def _sides(source_name: str, info: SampleInfo) -> list[tuple[str, str, Side]]:
    protocols = [(data, protocol) for data in source(source_name).datasets for protocol in dataset(data).protocols]
    sides = [(data, protocol, split(data, protocol, info)) for data, protocol in protocols]
    return [(data, protocol, side) for data, protocol, side in sides if side is not None]

"""Cells: the samples that stand on the same side in every protocol. Either side of any protocol is a union of cells."""

from shards.catalog import source
from shards.errors import raw_error
from shards.protocols import Side, split
from shards.schema import SampleInfo


def memberships(source_name: str, info: SampleInfo) -> dict[str, str]:
    """Side of a sample in every protocol of every data set that holds it: "ntu60/xsub" -> "train".

    Raises:
        ConfigError: unknown source.
        RawInputError: an official list does not know the sample, or no protocol holds it.
    """
    return {f"{data}/{protocol}": side for data, protocol, side in _sides(source_name, info)}


def cell_name(source_name: str, info: SampleInfo) -> str:
    """Folder name of a sample's cell, such as `xsub-train_xview-test`.

    Equal for two samples of a source if and only if their memberships are. With several data sets each part names its
    own, `mine-xsub-train_mine-easy-xsub-train`. Nested ones name the first, such as
    `ntu60-xsub-train_xview-test_xset-train`: a later one repeats a protocol only where its side differs from that of
    the first, which no official NTU sample does.
    """
    sides, facts = _sides(source_name, info), source(source_name)
    if len(facts.holds) > 1 and not facts.nested:
        return "_".join(f"{data}-{protocol}-{side}" for data, protocol, side in sides)
    parts = list(dict.fromkeys(f"{protocol}-{side}" for _, protocol, side in sides))
    prefix = [sides[0][0]] if len(facts.holds) > 1 else []
    return "-".join([*prefix, "_".join(parts)])


def _sides(source_name: str, info: SampleInfo) -> list[tuple[str, str, Side]]:
    protocols = [(data.name, protocol) for data in source(source_name).holds for protocol in data.protocols]
    sides = [(data, protocol, split(data, protocol, info)) for data, protocol in protocols]
    held = [(data, protocol, side) for data, protocol, side in sides if side is not None]
    if not held:
        raise raw_error(
            info.key, "name", "a sample that no protocol holds", f"one of {', '.join(source(source_name).datasets)}"
        )
    return held

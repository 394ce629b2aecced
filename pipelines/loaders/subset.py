"""Some samples of a split, by their ids: label fractions, a side without some subjects, some of the classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipelines.loaders.labels import SampleFacts
from pipelines.loaders.split import Chosen, Split, SplitShard
from shards.errors import ConfigError


def only(split: Split, sample_ids: Sequence[int] | npt.NDArray[np.int64], facts: SampleFacts) -> Split:
    """The split with these samples alone; its labels and number of classes stay those of the whole.

    Shards without such a sample are left out, of the others only these samples are read. The order is again one of
    (seed, epoch) alone, though not the order of the whole with gaps. It shuffles windows of shards: of a shard that
    gives few samples a window holds few, which `window=0` avoids. All samples give the split itself.

    Args:
        split: of one source, whole or a subset.
        sample_ids: (n,), in any order.
        facts: of the split, by `sample_facts`.

    Raises:
        ConfigError: no id, one twice, or one that the split does not have.
    """
    assert len(split.sources) == 1, "a subset of a mixture"
    assert len(facts) == split.num_samples, f"facts of {len(facts)} samples for {split.num_samples}"
    source = split.sources[0]
    ids, counts = np.unique(np.asarray(sample_ids, dtype=np.int64), return_counts=True)
    if not len(ids):
        raise ConfigError(f"{source.name}: found a subset without a sample, expected at least one")
    if counts.max() > 1:
        again = counts.argmax()
        raise ConfigError(f"{source.name}: found sample {ids[again]} {counts[again]} times, expected each once")
    foreign = np.setdiff1d(ids, facts.sample_id)
    if len(foreign):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ConfigError(
            f"{source.name}: found sample {foreign[0]}{more} in a subset, expected some of the {len(facts)} samples of"
            " the split"
        )
    taken, end = np.isin(facts.sample_id, ids), 0
    shards: list[SplitShard] = []
    for shard in split.shards:
        begin, end = end, end + len(shard.rows)
        part = taken[begin:end]
        if part.all():
            shards.append(shard)
        elif part.any():
            chosen = Chosen(tuple(np.asarray(shard.rows)[part].tolist()), int(facts.length[begin:end][part].sum()))
            shards.append(replace(shard, chosen=chosen))
    return Split(tuple(shards), (replace(source, samples=len(ids)),))

"""What a store is like, as numbers: the models that `quality.summary` fills in and that become JSON and a page."""

from shards.frozen import Frozen


class Histogram(Frozen):
    """Values by size: counts[i] lie in edges[i]..edges[i + 1], `beyond` lie above the last edge."""

    edges: list[float]
    counts: list[int]
    beyond: int


class Spread(Frozen):
    """A number of each sample. `quantiles` are by share, "0.5" is the median."""

    lowest: float
    highest: float
    mean: float
    quantiles: dict[str, float]
    histogram: Histogram


class RawQuality(Frozen):
    """The sums of `shards.schema.Quality`, and how many recordings have any of each.

    Attributes:
        totals: field -> sum over all recordings.
        recordings: field -> recordings in which it is not 0.
        bodies: bodies in the fullest frame -> recordings.
        ids: different body ids -> recordings.
    """

    totals: dict[str, int]
    recordings: dict[str, int]
    bodies: dict[str, int]
    ids: dict[str, int]


class Reason(Frozen):
    """Outcomes of one kind: numbers in `reason` are left out, `key` is the first sample's."""

    reason: str
    samples: int
    key: str


class Bone(Frozen):
    """A joint and its parent.

    Attributes:
        joint: the outer one.
        length: median over persons of the median over time, metres; 0 where the source does not have the joint.
        low, high: quantiles 0.05 and 0.95 of the same.
        variation: median over persons of the standard deviation over time, metres.
    """

    joint: int
    name: str
    length: float
    low: float
    high: float
    variation: float


class Joint(Frozen):
    """How a joint moves from frame to frame.

    Attributes:
        median, fast: quantiles 0.5 and 0.99 over all frames and persons, metres a frame, to half a millimetre.
        frozen: share of neighbouring frames in which it keeps its coordinates to the last bit.
    """

    joint: int
    name: str
    median: float
    fast: float
    frozen: float


class Outlier(Frozen):
    """A sample of a list; `pipelines.quality.outliers` says what its numbers are.

    Attributes:
        number: row of the store.
        frame: where it shows, from 0.
        person, joint: who and what is wrong there; None where nobody is.
    """

    number: int
    key: str
    label: int
    score: float
    found: float
    usual: float
    frame: int
    person: int | None
    joint: int | None


class Outliers(Frozen):
    """The worst samples by one measure; `scores` are those of all samples."""

    name: str
    unit: str
    scores: Spread
    samples: list[Outlier]


class Statistics(Frozen):
    """What a store is like. Counts by a number go by its text; "unknown" where the source does not tell.

    Attributes:
        store: name of its folder.
        max_error: largest difference between a stored coordinate and its float32, metres.
        counts: as the manifest has them.
        classes: label -> samples; of an untrimmed source, labelled actions.
        subjects, cameras, setups, bodies: -> rows of the store (videos of an untrimmed source).
        sides: "data set/protocol" -> side -> samples.
        lengths: of the rows, frames.
        actions: lengths of the labelled actions of an untrimmed source, frames.
        raw: None where the store does not tell.
        dropped, repaired: the most frequent reason first.
        empty_frames: of the store: frames in which nobody is present.
        pairs, duplicates: neighbouring frames in which somebody is present; those that are equal.
        top_speeds, fast_speeds: of each sample, see `Measures`; metres a frame.
        lowest, highest: coordinates of all bodies (x, y, z), metres; zeros in a store that shows nobody.
    """

    store: str
    source: str
    recipe: str
    dtype: str
    max_error: float
    counts: dict[str, int]
    classes: dict[str, int]
    subjects: dict[str, int]
    cameras: dict[str, int]
    setups: dict[str, int]
    bodies: dict[str, int]
    sides: dict[str, dict[str, int]]
    lengths: Spread
    actions: Spread | None
    raw: RawQuality | None
    dropped: list[Reason]
    repaired: list[Reason]
    empty_frames: int
    pairs: int
    duplicates: int
    bones: list[Bone]
    joints: list[Joint]
    top_speeds: Spread
    fast_speeds: Spread
    lowest: list[float]
    highest: list[float]
    outliers: list[Outliers]

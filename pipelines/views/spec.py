"""Views as data: which views a method sees of a sample, and by which operations each is made."""

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from pipelines.augmentations.operation import Crop, Mask, Mix
from pipelines.augmentations.vocabulary import AnyOperation
from shards.frozen import Frozen

MAX_FRAMES = 4096
"""Of a view, to which actions of some hundred frames are resampled."""


class View(Frozen):
    """One view of a sample.

    Attributes:
        name: of the view; also the key of its draws.
        of: the earlier view that it is made of; None for the stored sample, which a crop must open.
        operations: applied in this order.
    """

    name: str = Field(min_length=1)
    of: str | None = None
    operations: tuple[AnyOperation, ...] = ()

    @model_validator(mode="after")
    def _opens(self) -> Self:
        crops = [number for number, operation in enumerate(self.operations) if isinstance(operation, Crop)]
        if crops != ([0] if self.of is None else []):
            wanted = "one crop, as the first operation" if self.of is None else f"no crop behind view {self.of!r}"
            raise ValueError(f"view {self.name!r}: found {[o.kind for o in self.operations]}, expected {wanted}")
        mixes = [number for number, operation in enumerate(self.operations) if isinstance(operation, Mix)]
        if mixes and (self.of is None or mixes != [0]):
            raise ValueError(f"view {self.name!r}: found a mix, expected it first in a view made of another one")
        kinds = [operation.kind for operation in self.operations]
        masks = [isinstance(operation, Mask) for operation in self.operations]
        if masks != sorted(masks):
            raise ValueError(f"view {self.name!r}: found {kinds}, expected masks last: behind one only masks stay true")
        return self

    def named(self) -> Iterator[tuple[str, AnyOperation]]:
        """Each operation with its slot: empty, or "2:" for the second of its kind, so that it draws for itself."""
        seen: dict[str, int] = {}
        for operation in self.operations:
            seen[operation.kind] = seen.get(operation.kind, 0) + 1
            yield "" if seen[operation.kind] == 1 else f"{seen[operation.kind]}:", operation

    @property
    def mix(self) -> Mix | None:
        """The operation that mixes samples, if this view has one."""
        return next((operation for operation in self.operations if isinstance(operation, Mix)), None)

    @property
    def masked(self) -> bool:
        """Whether an operation of this view hides entries."""
        return any(isinstance(operation, Mask) for operation in self.operations)


class ViewSpec(Frozen):
    """The views of a method.

    Attributes:
        frames: T of every view.
        views: each made of the sample or of an earlier view.
    """

    frames: int = Field(default=64, ge=1)
    views: tuple[View, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        known: dict[str, View] = {}
        for view in self.views:
            if view.name in known:
                raise ValueError(f"found two views {view.name!r}, expected different names")
            if view.of is not None and view.of not in known:
                raise ValueError(f"view {view.name!r}: found 'of' {view.of!r}, expected an earlier view: {list(known)}")
            if view.mix is not None and view.of is not None and known[view.of].of is not None:
                raise ValueError(f"view {view.name!r}: found a mix of {view.of!r}, expected one made of the sample")
            if view.of is not None and known[view.of].masked and not all(isinstance(o, Mask) for o in view.operations):
                raise ValueError(f"view {view.name!r}: found a change of {view.of!r}, expected only more masks")
            known[view.name] = view
        mixes = [view.name for view in self.views if view.mix is not None]
        if len(mixes) > 1:
            raise ValueError(f"found the mixed views {mixes}, expected at most one")
        return self

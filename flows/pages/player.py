"""The views of one sample as a page shows them: coordinates, what is hidden, where it would be, and what was drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flows.pages.web import encode as encode  # the other pages take it from here
from flows.pages.web import encode_bytes
from pipelines.augmentations.operation import Free, Linear, Mask, Mix, Operation, Samples
from pipelines.augmentations.streams import ToStream
from pipelines.loaders.sample import Neighbours
from pipelines.views import draw_blend, make_views
from pipelines.views.spec import View, ViewSpec
from pipelines.views.text import Line, lines, mask_words, mix_words
from shards.batch import RaggedBatch, Views, unflatten
from shards.skeleton import NUM_PERSONS, Stream

HIDDEN, GONE, MIXED = 1, 2, 4
"""State of a joint in a frame: masked or zeroed, drawn where it would be; zero, and nobody knows where it would be;
other than in the view that a mix was made of."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """What the views of a sample are drawn by, as of `pipelines.views.make_views`."""

    seed: int
    epoch: int
    step: int


@dataclass(frozen=True)
class Picture:
    """A view on the page: its text, and its frames for the script."""

    name: str
    of: str
    lines: list[Line]
    hidden: list[str]
    targets: list[str]
    frames: dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """The views of one specification, of the first sample of `around`."""

    spec: ViewSpec
    around: Neighbours
    run: Run

    def pictures(self) -> list[Picture]:
        """One for each view."""
        made = self._make(self.spec)
        bare = self._make(_without(self.spec, Mask))
        plain = self._make(_without(self.spec, Mask, Linear, Free))
        still = self._make(_without(self.spec, Mask, ToStream))
        upright = self._make(_without(self.spec, Mask, Linear, Free, ToStream))
        clock = self._clock()
        pictures = []
        for view in self.spec.views:
            ghost, places = _filled(bare, plain, view), _filled(still, upright, view)
            pictures.append(self._picture(view, made, ghost, places, _row(clock.views[view.name])[:, 0, 0, 0]))
        return pictures

    def _make(self, spec: ViewSpec, batch: RaggedBatch | None = None) -> Views:
        batch = self.around.batch if batch is None else batch
        return make_views(batch, spec, **vars(self.run))

    def _clock(self) -> Views:
        """Views of a sample whose coordinates are the numbers of its frames: when each frame of a view was."""
        batch = self.around.batch
        length = int(batch.length[0])
        numbers = torch.arange(length, dtype=torch.float32)[:, None, None, None].expand(-1, *batch.frames.shape[1:])
        one = RaggedBatch(numbers.contiguous(), batch.start[:1], batch.length[:1], batch.label[:1], batch.sample_id[:1])
        return self._make(_without(self.spec, Mask, Linear, Free, ToStream, Mix), one)

    def _picture(self, view: View, made: Views, ghost: Floats, places: Floats, clock: Floats) -> Picture:
        """A view.

        Args:
            ghost: its coordinates where nothing is hidden.
            places: where the joints are, whatever the stream.
            clock: number of the stored frame that each frame was.
        """
        values, stream = _row(made.views[view.name]), self._stream(view)
        masked = self._masked(view, made)
        state = self._states(view, values, ghost, masked, made)
        frames: dict[str, Any] = {"count": self.spec.frames, "stream": stream, "data": encode(values)}
        frames["at"] = [round(float(moment), 1) for moment in clock]
        frames["of"] = int(self.around.batch.length[0])
        if state.any():
            frames["state"] = encode_bytes(state)
        if (state & HIDDEN).any():
            frames["ghost"] = encode(ghost)
        if stream == "motion":
            frames["still"] = encode(places)
        there = [person for person in range(NUM_PERSONS) if ghost[:, person].any()]
        return Picture(
            name=view.name,
            of="the stored sample" if view.of is None else f"view {view.of}",
            lines=self._lines(view, made),
            hidden=[] if masked is None or not there else mask_words(masked[:, there]),
            targets=[f"{name}: {int(value[0])}" for name, value in self._targets(view, made)],
            frames=frames,
        )

    def _lines(self, view: View, made: Views) -> list[Line]:
        batch, run, mixed = self.around.batch, vars(self.run), ""
        one = Samples(batch.sample_id[:1], batch.length[:1])
        if view.mix is not None:
            blend = draw_blend(self.spec, one, len(batch), **run)
            assert blend is not None
            assert made.mix_partner is not None
            partner = self.around.keys[int(made.mix_partner[0])]
            mixed = mix_words(blend, partner, str(view.of), self.spec.frames)
        return list(lines(view, one, self.spec.frames, **run, mixed=mixed))

    def _targets(self, view: View, made: Views) -> list[tuple[str, Tensor]]:
        whose = f"{view.name}/"
        return [(name.removeprefix(whose), value) for name, value in made.targets.items() if name.startswith(whose)]

    def _masked(self, view: View, made: Views) -> npt.NDArray[np.bool_] | None:
        """(T, M, V), where a mask lets nothing of a joint be seen."""
        if view.name not in made.masks:
            return None
        visible = made.masks[view.name][:1].expand(1, *made.views[view.name].shape[1:])
        hidden: npt.NDArray[np.bool_] = ~unflatten(visible)[0].any(dim=-1).numpy()
        return hidden

    def _states(
        self, view: View, values: Floats, ghost: Floats, masked: npt.NDArray[np.bool_] | None, made: Views
    ) -> npt.NDArray[np.uint8]:
        """(T, M, V): what there is to say of each joint."""
        zero, placed = ~values.any(axis=-1), ghost.any(axis=-1)
        hidden = zero & placed if masked is None else (zero | masked) & placed
        # a recipe's centre is zero by right, in the sample itself and so in every view
        length = int(self.around.batch.length[0])
        centre = ~self.around.batch.frames[:length].numpy().any(axis=(0, 3))
        anyone = (values.any(axis=-1) | placed).any(axis=-1, keepdims=True)
        gone = zero & ~placed & ~centre & anyone & (self._stream(view) == "joint")
        state = np.zeros(zero.shape, np.uint8)
        state[hidden] |= HIDDEN
        state[gone] |= GONE
        if view.mix is not None and view.of is not None:
            state[(values != _row(made.views[view.of])).any(axis=-1)] |= MIXED
        return state

    def _stream(self, view: View) -> Stream:
        """What the coordinates of a view are; motion of bones counts as motion."""
        named = {other.name: other for other in self.spec.views}
        streams: set[Stream] = set()
        at: View | None = view
        while at is not None:
            streams |= {operation.stream for operation in at.operations if isinstance(operation, ToStream)}
            at = None if at.of is None else named[at.of]
        return "motion" if "motion" in streams else "bone" if "bone" in streams else "joint"


def _without(spec: ViewSpec, *families: type[Operation]) -> ViewSpec:
    """The specification without operations of these families; what the others draw stays."""
    return spec.model_copy(
        update={
            "views": tuple(
                view.model_copy(update={"operations": tuple(o for o in view.operations if not isinstance(o, families))})
                for view in spec.views
            )
        }
    )


def _filled(views: Views, others: Views, view: View) -> Floats:
    """A view's coordinates (T, M, V, C); joints that are zero by those of the same view among the others."""
    x = _row(views.views[view.name])
    zero = ~x.any(axis=-1)
    x[zero] = _row(others.views[view.name])[zero]
    return x


def _row(x: Tensor) -> Floats:
    """The first sample of a flat view (N, T, V*C*M) as (T, M, V, C)."""
    return np.array(unflatten(x[:1])[0].numpy())

"""What an objective can be given: the checks that stand before its first product."""

from collections.abc import Collection

from torch import Tensor

from shards.batch import Views
from shards.errors import ConfigError


def check_views(views: Views, width: int, *, needed: Collection[str], masks: Collection[str], mixed: bool) -> None:
    """Refuse views that an objective cannot use; reads no value, so that nothing waits for the device.

    Args:
        views: of a batch.
        width: entries of a frame, V*C*M.
        needed: views that must be there, all of one shape.
        masks: views whose masks must be there.
        mixed: whether the view "mix" needs its partner and weight.

    Raises:
        ConfigError: one is missing or has another shape.
    """
    missing = set(needed) - views.views.keys()
    if missing:
        raise ConfigError(f"views {sorted(views.views)} found, expected also {sorted(missing)}")
    if not set(masks) <= views.masks.keys():
        raise ConfigError(f"masks {sorted(views.masks)} found, expected also {sorted(set(masks) - views.masks.keys())}")
    if mixed and (views.mix_partner is None or views.mix_weight is None):
        raise ConfigError("the view 'mix' found without its partner and weight, expected both for the pair 'mix'")
    first = min(needed)
    if views.views[first].dim() != 3:
        raise ConfigError(
            f"view {first!r} of shape {tuple(views.views[first].shape)} found, expected ({len(views)}, T, {width})"
        )
    shape = (len(views), views.views[first].shape[1], width)
    for name in sorted(needed):
        _check_shape(f"view {name!r}", views.views[name], shape)
    for name in sorted(masks):
        _check_shape(f"mask {name!r}", views.masks[name], shape, or_one=True)
    for what, tensor in (("mix_partner", views.mix_partner), ("mix_weight", views.mix_weight)):
        if mixed and tensor is not None:
            _check_shape(what, tensor, shape[:1])


def _check_shape(what: str, tensor: Tensor, shape: tuple[int, ...], *, or_one: bool = False) -> None:
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(a == b or (or_one and a == 1) for a, b in zip(found, shape, strict=True))
    if not fits:
        raise ConfigError(f"{what} of shape {found} found, expected {shape}{', or 1 in places' if or_one else ''}")

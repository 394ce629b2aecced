"""What every encoder is: a network from a view to the feature of each sample and, where it has them, of each frame."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import SerializeAsAny, WrapValidator
from torch import Tensor, nn

from shards.errors import ConfigError
from shards.registry import Kind, Registry
from shards.skeleton import FRAME_SIZE

Family = Literal["gru", "lstm", "gcn", "transformer", "cnn", "dgcnn"]
"""Kind of network, by which downstream defaults are chosen."""


class Encoded(NamedTuple):
    """What an encoder makes of a view.

    Attributes:
        feature: (N, D), of each sample: what downstream tasks see.
        frames: (N, T', D), in the order of time; T' is T divided by the encoder's `stride`, rounded up. None where the
            network has none.
    """

    feature: Tensor
    frames: Tensor | None


class Encoder(nn.Module):
    """Base of all encoders. How persons, joints and layout are treated is the encoder's own business.

    Attributes:
        width: D, entries of a feature.
        family: kind of network.
        layer_names: what `layer` can be asked for beside "last", from input to output.
        any_length: takes views of any T; else of the T it was made for.
        stride: frames of a view for one of `Encoded.frames`; None where the network has no frames.
        joint_tokens: it has a vector for each joint of each person, see `tokens`.
        blocks: prefixes of parameter names, from input to output, in groups: what `freeze` freezes and what layer-wise
            decay counts. Every parameter belongs to exactly one group.
    """

    width: int
    family: ClassVar[Family]
    layer_names: tuple[str, ...] = ()
    stride: int | None = None
    any_length: bool = True
    joint_tokens: bool = False
    blocks: tuple[tuple[str, ...], ...]

    @abstractmethod
    def forward(self, x_NTD: Tensor) -> Encoded:
        """Encode views (N, T, V*C*M)."""

    def layer(self, x_NTD: Tensor, name: str) -> Tensor:
        """(N, D'): the features at an inner layer, pooled as the last ones; layers above are not run.

        Raises:
            ConfigError: the encoder has no such layer.
        """
        check_layer(self, name)
        raise AssertionError(f"{type(self).__name__} names the layer {name} but does not give it")

    def tokens(self, x_NTD: Tensor) -> Tensor:
        """(N, M, S, V, D): what the feature is the mean of, by person, step of time and joint; for `joint_tokens` only.

        A head that keeps joints apart asks for it (fine-tuning of maoyunyao/MAMP).
        """
        raise AssertionError(f"{type(self).__name__} has no tokens of joints")

    def set_drop_path(self, most: float) -> None:
        """Let rows of a batch skip branches of the network in training: stochastic depth.

        Args:
            most: probability in the last block; it rises linearly from 0 in the first.

        Raises:
            ConfigError: the network has no such branches.
        """
        raise ConfigError(f"found drop path {most:g} for an encoder ({self.family}) without branches to skip")

    def block_of(self, parameter: str) -> int:
        """The number of the group of `blocks` that a parameter belongs to, by its name within the encoder."""
        for number, prefixes in enumerate(self.blocks):
            if any(parameter == prefix or parameter.startswith(f"{prefix}.") for prefix in prefixes):
                return number
        raise AssertionError(f"parameter {parameter} is in no block of {type(self).__name__}")

    def freeze(self, count: int) -> None:
        """Give no gradient to the first `count` groups of `blocks`.

        Raises:
            ConfigError: there are fewer.
        """
        if not 0 <= count <= len(self.blocks):
            raise ConfigError(f"found {count} blocks to freeze, expected 0 to {len(self.blocks)}")
        for name, parameter in self.named_parameters():
            if self.block_of(name) < count:
                parameter.requires_grad_(False)


def check_layer(encoder: Encoder, name: str) -> None:
    """Refuse an inner layer that the encoder does not have.

    Raises:
        ConfigError: what it has.
    """
    if name not in encoder.layer_names:
        raise ConfigError(f"found layer {name!r}, expected one of {', '.join(encoder.layer_names) or 'none'}")


def check_width(x_NTD: Tensor, width: int = FRAME_SIZE) -> None:
    """Refuse frames of another number of entries than an encoder takes; reads no value.

    Raises:
        ConfigError: both numbers.
    """
    if x_NTD.shape[-1] != width:
        raise ConfigError(
            f"found frames of {x_NTD.shape[-1]} entries (V*C*M) in a view, expected {width} as the encoder takes"
        )


class EncoderConfig(Kind):
    """Base of the encoders' options.

    Attributes:
        family: of the encoder that it builds.
    """

    family: ClassVar[Family]

    def check(self, frames: int) -> None:
        """Refuse views of `frames` frames of V*C*M entries, where the encoder cannot take them.

        Raises:
            ConfigError: what is wrong.
        """

    def describe(self) -> str:
        """Its kind and options in one line."""
        options = (f"{name} {value}" for name, value in self.model_dump(mode="json").items() if name != "kind")
        return ", ".join((self.kind, *options))

    @abstractmethod
    def build(self) -> Encoder:
        """The encoder, with random initial weights from torch's global generator."""


ENCODERS: Registry[EncoderConfig] = Registry("encoder", "models.encoders", "skelstream.encoders")
"""All encoders by `kind`."""

AnyEncoderConfig = Annotated[SerializeAsAny[EncoderConfig], WrapValidator(ENCODERS.validate)]
"""A field that takes the options of any encoder."""

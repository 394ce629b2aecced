"""Skeletons as tokens, and the parts of a Transformer over them. Axis legend in `shards.schema`.

A token is one joint of one person in `patch` frames; persons are rows of their own, row n*M + m. Token s*V + v of a row
is joint v in frames s*patch..(s+1)*patch - 1, and its entries are frame*C + c. Letters beside the legend: R rows N*M,
S steps T/patch, L tokens S*V, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dropout import DropPath
from shards.batch import flatten, unflatten
from shards.errors import ConfigError
from shards.skeleton import FRAME_SIZE, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS


def token_steps(frames: int, patch: int) -> int:
    """How many tokens of `patch` frames a view of `frames` frames has in time.

    Raises:
        ConfigError: the view is no multiple of a token.
    """
    if frames % patch or not frames:
        raise ConfigError(f"found a view of {frames} frames, expected a multiple of the {patch} frames of a token")
    return frames // patch


def patches(x_NTD: Tensor, patch: int) -> Tensor:
    """The entries of each token of a view, (N, T, V*C*M) -> (N*M, L, patch*C).

    Raises:
        ConfigError: the view is no multiple of a token, or has another layout.
    """
    return _tokens_apart(x_NTD, patch).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).flatten(0, 1)


def from_patches(tokens: Tensor, patch: int) -> Tensor:
    """The view of these entries, the inverse of `patches`: (N*M, L, patch*C) -> (N, T, V*C*M)."""
    apart = tokens.view(-1, NUM_PERSONS, tokens.shape[1] // NUM_JOINTS, NUM_JOINTS, patch, NUM_COORDINATES)
    return flatten(apart.permute(0, 2, 4, 1, 3, 5).flatten(1, 2))


def visible_tokens(mask: Tensor, shape: torch.Size, patch: int) -> Tensor:
    """Which tokens of a view are visible: (N*M, L) bool. A token is visible if all its entries are.

    Args:
        mask: bool, True where visible, broadcastable to `shape`.
        shape: (N, T, V*C*M), of the view.
        patch: frames of a token.
    """
    return _tokens_apart(mask.expand(shape), patch).all(5).all(2).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _tokens_apart(x_NTD: Tensor, patch: int) -> Tensor:
    """(N, T, V*C*M) -> (N, S, patch, M, V, C), of the same memory."""
    if x_NTD.dim() != 3 or x_NTD.shape[2] != FRAME_SIZE:
        raise ConfigError(f"found a view of shape {tuple(x_NTD.shape)}, expected (N, T, {FRAME_SIZE})")
    steps = token_steps(x_NTD.shape[1], patch)
    return unflatten(x_NTD).view(x_NTD.shape[0], steps, patch, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)


class Positions(nn.Module):
    """Learnt vectors of each joint and of each step of time, which are added to the tokens.

    Attributes:
        joints: (1, 1, V, D).
        times: (1, steps, 1, D); for another number of steps they are resized bicubically along time, with half-pixel
            centres, as maoyunyao/MAMP does to a checkpoint's.
    """

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.joints = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, NUM_JOINTS, width), std=0.02))
        self.times = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, steps, 1, width), std=0.02))

    def forward(self, steps: int) -> Tensor:
        """(L, D), the sum of both vectors for each token of a row."""
        times: Tensor = self.times
        if steps != times.shape[1]:
            resized = F.interpolate(times.permute(0, 3, 1, 2), size=(steps, 1), mode="bicubic", align_corners=False)
            times = resized.permute(0, 2, 3, 1)
        return (times + self.joints).flatten(0, 2)


class Attention(nn.Module):
    """Self-attention of several heads, scaled by 1/sqrt(width of a head), (R, L, D) -> (R, L, D)."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each token as a mixture of all tokens of its row."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Linear, exact GELU, linear, (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each token by itself."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm block of a Transformer, (R, L, D) -> (R, L, D): x + attn(norm1(x)), then x + mlp(norm2(x)).

    Args:
        width: D.
        heads: of the attention; `width` is a multiple.
        mlp_ratio: hidden width of the MLP in widths.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path: probability with which a row skips a branch, for each branch by itself.
        eps: of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_ratio * width)
        # one for each branch: a seeded drop path draws the same in every call
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of a row see each other."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        y: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return y


class TokenDecoder(nn.Module):
    """A Transformer that predicts something of every token from the latents of those that were seen.

    The latents are put back into their places, a learnt vector stands in all others, and positions of its own are
    added. Source: maoyunyao/MAMP after facebookresearch/mae.

    Args:
        inputs: width of a latent.
        width: D, of the decoder's own tokens.
        layers: blocks.
        heads: of the attention; `width` is a multiple.
        outputs: numbers that are predicted of a token.
        steps: for which the vectors of time are learnt.
        mlp_ratio, qkv_bias: of the blocks.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        layers: int,
        heads: int,
        outputs: int,
        steps: int,
        *,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.positions = Positions(steps, width)
        self.layers = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        start_linear(self)

    def forward(self, latent_RKD: Tensor, kept_ids: Tensor, steps: int) -> Tensor:
        """The prediction of every token, seen ones too.

        Args:
            latent_RKD: of the tokens that were seen.
            kept_ids: (R, K) int64, which they are.
            steps: S, of the view.

        Returns:
            (R, S*V, outputs).
        """
        seen = self.embedding(latent_RKD)
        tokens = self.mask_token.to(seen.dtype).expand(seen.shape[0], steps * NUM_JOINTS, -1)
        tokens = tokens.scatter(1, kept_ids[..., None].expand_as(seen), seen) + self.positions(steps)
        for layer in self.layers:
            tokens = layer(tokens)
        predicted: Tensor = self.head(self.norm(tokens))
        return predicted


def start_linear(module: nn.Module) -> None:
    """Initial values of all linear layers of a module: weights xavier-uniform (queries, keys and values as one matrix),
    biases 0, as maoyunyao/MAMP does after facebookresearch/mae."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

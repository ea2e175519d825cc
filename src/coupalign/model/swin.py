"""Image encoder: Swin Transformer (Liu et al., ICCV 2021), stage by stage (paper, 3.2 and Eq 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.model.dropout import DropPath
from coupalign.model.layers import INIT_STD, Gelu, dense
from coupalign.model.windows import Permute, WindowLayout


class WindowAttention(nn.Cell):
    """Multi-head self-attention inside each window, with relative position bias.

    With ``shifted``, tokens come in shifted order and pairs that only the shift brought together are masked.
    Inputs, outputs: (B, L, dim), window by window.
    """

    def __init__(self, *, dim: int, heads: int, layout: WindowLayout, shifted: bool):
        super().__init__()
        self.heads = heads
        self.window_area = layout.window**2
        self.num_windows = layout.num_windows
        self.shifted = shifted
        self.cast = nn.Identity()  # build_model sets its precision, as it does for linear layers
        self.qkv = dense(dim, 3 * dim)
        self.proj = dense(dim, dim)
        table = ((2 * layout.window - 1) ** 2, heads)
        self.relative_position_bias_table = Parameter(initializer(TruncatedNormal(INIT_STD), table))
        self.relative_position = Tensor(layout.relative_position())
        if shifted:
            self.shift_attention_mask = Tensor(layout.shift_attention_mask())

    def construct(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        n, heads = self.window_area, self.heads
        x = self.cast(x)
        query = self._project(x, 0).transpose(0, 2, 1, 3)
        key = self._project(x, 1).transpose(0, 2, 3, 1)
        value = self._project(x, 2).transpose(0, 2, 1, 3)
        scores = ops.matmul(query * (dim // heads) ** -0.5, key).astype("float32")
        bias = ops.gather(self.relative_position_bias_table, self.relative_position, 0)
        bias = bias.transpose(1, 0).reshape(1, heads, n, n).astype("float32")
        if self.shifted:
            bias = bias + self.shift_attention_mask
        scores = scores.reshape(batch, -1, heads, n, n) + bias
        weights = ops.softmax(scores, axis=-1).astype(value.dtype).reshape(-1, heads, n, n)
        return self.proj(ops.matmul(weights, value).transpose(0, 2, 1, 3).reshape(batch, -1, dim))

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Query, key or value (part 0, 1, 2), (B * count, n, heads, dim / heads).

        The checkpoint stores one weight for the three. Slicing it is far cheaper than slicing its product. The product
        is one of two matrices; batched, MindSpore would copy the weight for each sample.
        """
        dim = x.shape[-1]
        weight = self.qkv.weight[part * dim : (part + 1) * dim].astype(x.dtype)
        bias = self.qkv.bias[part * dim : (part + 1) * dim].astype(x.dtype)
        y = ops.bias_add(ops.matmul(x.reshape(-1, dim), weight.swapaxes(0, 1)), bias)
        return y.reshape(-1, self.window_area, self.heads, dim // self.heads)


class Mlp(nn.Cell):
    """Feed-forward network: linear layer to 4 dim, GELU, linear layer. Inputs, outputs: (B, L, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = dense(dim, 4 * dim)
        self.gelu = Gelu()
        self.fc2 = dense(4 * dim, dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.gelu(self.fc1(x)))


class SwinBlock(nn.Cell):
    """A pre-norm block: window attention, then feed-forward. Inputs, outputs: (B, L, dim), window by window."""

    def __init__(self, *, dim: int, heads: int, layout: WindowLayout, shifted: bool, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.attn = WindowAttention(dim=dim, heads=heads, layout=layout, shifted=shifted and layout.shift > 0)
        self.norm2 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.mlp = Mlp(dim)
        # Two Cells: graph mode would merge two calls of one Cell with equal inputs into a single draw.
        self.drop_path1 = DropPath(drop_path)
        self.drop_path2 = DropPath(drop_path)
        self.is_padded = layout.padded != layout.size
        if self.is_padded:
            self.padding_mask = Tensor(layout.padding_mask(layout.shifted if shifted else layout.regular))

    def construct(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.is_padded:
            # As in the official Swin, attention sees padding as zeros.
            y = y * self.padding_mask.astype(y.dtype)
        x = x + self.drop_path1(self.attn(y))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchMerging(nn.Cell):
    """Concatenates 2x2 neighbours and projects them. Inputs: (B, size^2, dim). Outputs: (B, size^2/4, 2 dim)."""

    def __init__(self, *, dim: int, size: int):
        super().__init__()
        raster = np.arange(size * size).reshape(size // 2, 2, size // 2, 2)
        self.neighbours = Permute(raster.transpose(0, 2, 3, 1).reshape(-1))
        self.norm = nn.LayerNorm((4 * dim,), epsilon=1e-5)
        self.reduction = dense(4 * dim, 2 * dim, bias=False)

    def construct(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        return self.reduction(self.norm(self.neighbours(x).reshape(batch, length // 4, 4 * dim))).astype(x.dtype)


class SwinStage(nn.Cell):
    """SwinStage_i of Eq 3: blocks with regular and shifted windows in turn; patch merging ends all but the last.

    Tokens stay in window order between blocks and return to raster order once, at the end.

    Args:
        dim: Width of the tokens.
        heads: Number of heads; it divides dim.
        size: Height and width of the map.
        window: Window size of the configuration.
        drop_path: Stochastic depth rate of each block; its length is the number of blocks.
        downsample: Whether patch merging ends the stage.

    Inputs: x (B, size^2, dim), raster order. Outputs: (B, size^2/4, 2 dim), or the shape of x in the last stage.
    """

    def __init__(self, *, dim: int, heads: int, size: int, window: int, drop_path: list[float], downsample: bool):
        super().__init__()
        layout = WindowLayout(size, window)
        self.size, self.padded = size, layout.padded
        self.blocks = nn.CellList(
            [
                SwinBlock(dim=dim, heads=heads, layout=layout, shifted=i % 2 == 1, drop_path=rate)
                for i, rate in enumerate(drop_path)
            ]
        )
        self.has_shift = layout.shift > 0
        last = layout.shifted if len(drop_path) % 2 == 0 else layout.regular
        self.raster_to_regular = Permute(layout.regular)
        self.last_to_raster = Permute(np.argsort(last))
        if self.has_shift:
            self.to_shifted = Permute(np.argsort(layout.regular)[layout.shifted])
            self.to_regular = Permute(np.argsort(layout.shifted)[layout.regular])
        self.has_downsample = downsample
        if downsample:
            self.downsample = PatchMerging(dim=dim, size=size)

    def construct(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        extra = self.padded - self.size
        if extra:
            # The gradient of ops.pad is wrong on the CPU from the second call of a graph on (MindSpore 2.9).
            x = x.reshape(batch, self.size, self.size, dim)
            x = ops.concat((x, ops.zeros((batch, self.size, extra, dim), x.dtype)), 2)
            x = ops.concat((x, ops.zeros((batch, extra, self.padded, dim), x.dtype)), 1)
            x = x.reshape(batch, -1, dim)
        x = self.raster_to_regular(x)
        for i in range(len(self.blocks)):
            if i > 0 and self.has_shift:
                x = self.to_shifted(x) if i % 2 == 1 else self.to_regular(x)
            x = self.blocks[i](x)
        x = self.last_to_raster(x)
        if extra:
            x = x.reshape(batch, self.padded, self.padded, dim)[:, : self.size, : self.size]
            x = x.reshape(batch, -1, dim)
        if self.has_downsample:
            x = self.downsample(x)
        return x


class PatchEmbed(nn.Cell):
    """Image (B, 3, H, W) -> V_1 (B, HW/16, dim): a linear map of each 4x4 patch, then layer normalisation."""

    def __init__(self, dim: int):
        super().__init__()
        init = {"weight_init": TruncatedNormal(INIT_STD), "bias_init": "zeros"}
        self.proj = nn.Conv2d(3, dim, 4, stride=4, pad_mode="valid", has_bias=True, **init)
        self.norm = nn.LayerNorm((dim,), epsilon=1e-5)

    def construct(self, image: Tensor) -> Tensor:
        x = self.proj(image)
        batch, dim = x.shape[:2]
        return self.norm(x.reshape(batch, dim, -1).swapaxes(1, 2))


class SwinTransformer(nn.Cell):
    """Swin Transformer whose stages can be called one by one, so that words are fused before each.

    ``patch_embed(image)`` gives V_1, ``layers[i](x)`` runs SwinStage_{i+1} (Eq 3), ``norm`` gives V_o.

    Args:
        image_size: Height and width of the image, a multiple of 32.
        embed_dim: C_1; C_i = C_1 2^(i-1).
        depths: Number of blocks in each of the four stages; ``heads`` likewise.
        window: Window size; 7 or 12 in the published checkpoints.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        *,
        image_size: int,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path_rate: float,
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(embed_dim)
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()
        layers = []
        for i in range(4):
            dim, size = embed_dim * 2**i, image_size // 4 // 2**i
            drop_path = [rates.pop(0) for _ in range(depths[i])]
            stage = SwinStage(dim=dim, heads=heads[i], size=size, window=window, drop_path=drop_path, downsample=i < 3)
            layers.append(stage)
        self.layers = nn.CellList(layers)
        self.norm = nn.LayerNorm((embed_dim * 8,), epsilon=1e-5)

    def construct(self, image: Tensor) -> Tensor:
        """The encoder without words: image (B, 3, H, W) -> (B, HW/1024, 8 C_1)."""
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

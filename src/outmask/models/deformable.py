"""Multi-scale deformable attention (Deformable DETR, eq. 3), the sampling at the heart of the pixel decoder.

``weighted_gather`` reads all bilinear corners of all points of all levels in one ``embedding_bag``;
``grid_sample_attention`` is the literal form: the oracle, and what exporters can trace. Both compute the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

# torch says so once of every sparse matrix in rows; the one product used here is tested.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

LevelSizes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Attention of every token to a few learned points around it, on every level.

    Args:
        dim: channels, a multiple of ``num_heads``.
        num_heads: attention heads.
        num_levels: feature levels.
        num_points: points per head and level.
        exportable: sample with ``grid_sample`` instead of the weighted gather.
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int, exportable: bool = False) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.exportable = exportable
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Heads look in different directions, points at growing distance (Deformable DETR, A.4)."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1).view(1, 1, -1, 1)
        offsets = (direction.view(-1, 1, 1, 2) * distance).expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, sizes: LevelSizes) -> Tensor:
        """Attend from ``query`` to ``value``.

        Args:
            query: ``(B, S, dim)`` tokens with their position added.
            value: ``(B, S, dim)`` tokens of all levels, concatenated.
            reference: ``(S, 2)`` each token's own place, x and y in [0, 1]; at least float32.
            sizes: ``(height, width)`` of every level; ``S`` is the sum of their products.

        Returns:
            ``(B, S, dim)``.
        """
        batch, tokens, dim = query.shape
        points = (batch, tokens, self.num_heads, self.num_levels, self.num_points)
        weights = self.attention_weights(query).view(*points[:3], -1).softmax(-1).view(points)
        # Offsets are in pixels of their level.
        extent = reference.new_tensor([(width, height) for height, width in sizes])
        # The locations keep their products in pixels: x * width - 1/2 is where grid_sample (align_corners=False) reads.
        pixels = reference[:, None, :] * extent - 0.5  # (S, levels, 2)
        pixels = self.sampling_offsets(query).view(*points, 2) + pixels[:, None, :, None, :]
        value = self.value_proj(value).view(batch, tokens, self.num_heads, dim // self.num_heads)
        sample = grid_sample_attention if self.exportable else weighted_gather
        output: Tensor = self.output_proj(sample(value, sizes, pixels, weights))
        return output


def grid_sample_attention(value: Tensor, sizes: LevelSizes, pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, level by level through ``grid_sample``; zero outside of a level.

    Args:
        value: ``(B, S, heads, d)``.
        sizes: ``(height, width)`` per level.
        pixels: ``(B, Q, heads, levels, points, 2)`` sampling places, x and y in pixels of their level, 0 = centre of
            the first; at least float32.
        weights: ``(B, Q, heads, levels, points)``.

    Returns:
        ``(B, Q, heads * d)``.
    """
    batch, _, heads, channels = value.shape
    queries, points = pixels.shape[1], pixels.shape[4]
    output = pixels.new_zeros(batch * heads, channels, queries)
    levels = torch.split(value.to(pixels.dtype), [height * width for height, width in sizes], dim=1)
    for level, (height, width) in enumerate(sizes):
        image = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        extent = pixels.new_tensor([width, height])
        grid = (2 * pixels[:, :, :, level] + 1) / extent - 1
        grid = grid.transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        output = output + (sampled * weight).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def weighted_gather(value: Tensor, sizes: LevelSizes, pixels: Tensor, weights: Tensor) -> Tensor:
    """As :func:`grid_sample_attention`, in one gather: every query and head sums 4 corners of all its points.

    Corners outside of their level get weight zero, which is ``grid_sample``'s zero padding.
    """
    batch, tokens, heads, channels = value.shape
    queries = pixels.shape[1]
    starts = [0]
    for level_height, level_width in sizes[:-1]:
        starts.append(starts[-1] + level_height * level_width)

    # 32 bits halve the memory that the arithmetic walks through.
    integers: dict[str, Any] = {"dtype": torch.int32, "device": value.device}
    height, width = torch.tensor(sizes, **integers).T.unsqueeze(-1)
    start = torch.tensor(starts, **integers).unsqueeze(-1)
    # Row (b, s, head) of the table is value[b, s, head]; a bag is one (b, query, head).
    image = torch.arange(batch, **integers).view(-1, 1, 1, 1, 1)
    head = torch.arange(heads, **integers).view(-1, 1, 1)
    base = (image * tokens + start) * heads + head
    x, y = pixels.unbind(-1)
    columns = [(place * heads, weight) for place, weight in _corners(x, width)]
    rows = [(place * width * heads + base, weight * weights) for place, weight in _corners(y, height)]
    # Corners before levels and points: runs of memory stay together.
    index = torch.stack([row + column for row, _ in rows for column, _ in columns], 3)
    coefficient = torch.stack([wy * wx for _, wy in rows for _, wx in columns], 3)
    index, coefficient = (part.flatten(3).flatten(0, 2) for part in (index, coefficient.to(value.dtype)))
    table = value.reshape(batch * tokens * heads, channels)
    if torch.is_grad_enabled() and (table.requires_grad or coefficient.requires_grad):
        output: Tensor = _WeightedBag.apply(table, index, coefficient)  # type: ignore[no-untyped-call]
    else:
        output = F.embedding_bag(index, table, per_sample_weights=coefficient, mode="sum")
    return output.view(batch, queries, heads * channels)


def _corners(position: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels along one axis between which a position lies, within the map, and their bilinear weights."""
    first = position.detach().floor()
    fraction = position - first
    last = size - 1
    corners = []
    for place, weight in ((first.int(), 1 - fraction), (first.int() + 1, fraction)):
        within = place.clamp(torch.zeros_like(last), last)
        corners.append((within, weight * (within == place)))
    return corners


class _WeightedBag(torch.autograd.Function):
    """``out[i] = sum_j coefficient[i, j] * table[index[i, j]]``, that is ``A table`` with a sparse matrix ``A``.

    Its gradients are ``A^T grad`` for the table, and ``grad table^T`` at the entries of ``A`` for the coefficients;
    ``embedding_bag``'s own CPU backward is slower than ``grid_sample``'s.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table: Tensor, index: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, coefficient)
        return F.embedding_bag(index, table, per_sample_weights=coefficient, mode="sum")

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        table, index, coefficient = ctx.saved_tensors  # type: ignore[attr-defined]
        grad = grads[0].contiguous()
        backward = _bag_backward_cpu if table.device.type == "cpu" else _bag_backward
        grad_table, grad_coefficient = backward(table, index, coefficient, grad)
        return grad_table, None, grad_coefficient


def _bag_backward_cpu(table: Tensor, index: Tensor, coefficient: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sparse products of scipy and torch, in float32 or float64: several times faster than what follows."""
    dtype = torch.promote_types(table.dtype, torch.float32)
    bags, entries = index.shape
    starts = torch.arange(0, bags * entries + 1, entries, dtype=index.dtype)
    grad = grad.to(dtype)
    values = coefficient.to(dtype).flatten()
    matrix = csr_matrix((values.numpy(), index.flatten().numpy(), starts.numpy()), shape=(bags, table.shape[0]))
    grad_table = torch.from_numpy(matrix.T @ grad.numpy())
    # torch takes no more entries than the matrix has places: a smaller table (of a map of a few pixels) is padded.
    table_ = F.pad(table.to(dtype), (0, 0, 0, max(0, entries - table.shape[0])))
    pattern = torch.sparse_csr_tensor(
        starts, index.flatten(), torch.zeros_like(values), size=(bags, len(table_)), check_invariants=False
    )
    grad_coefficient = torch.sparse.sampled_addmm(pattern, grad, table_.T, beta=0.0).values()
    return grad_table.to(table.dtype), grad_coefficient.view_as(coefficient).to(coefficient.dtype)


def _bag_backward(table: Tensor, index: Tensor, coefficient: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the table is again a weighted bag: over the entries that read each row, found by one sort."""
    bags, entries = index.shape
    row, order = index.flatten().sort()
    counts = torch.bincount(row, minlength=table.shape[0])
    offsets = (counts.cumsum(0) - counts).to(index.dtype)
    grad_table = F.embedding_bag(
        (order // entries).to(index.dtype),
        grad,
        offsets,
        per_sample_weights=coefficient.flatten()[order],
        mode="sum",
    )
    # Chunked, so that the gathered rows never take more than a few tens of megabytes.
    grad_coefficient = torch.empty_like(coefficient)
    step = max(1, 2**22 // (entries * table.shape[1]))
    for first in range(0, bags, step):
        chunk = slice(first, first + step)
        gathered = table[index[chunk].flatten()].view(-1, entries, table.shape[1])
        torch.bmm(gathered, grad[chunk].unsqueeze(-1), out=grad_coefficient[chunk].unsqueeze(-1))
    return grad_table, grad_coefficient

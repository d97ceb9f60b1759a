"""Multi-scale deformable attention (Deformable DETR, eq. 3), the sampling at the heart of the pixel decoder.

``weighted_gather`` reads all bilinear corners of all points of all levels in one ``embedding_bag``;
``grid_sample_attention`` is the literal form: the oracle, and what exporters can trace. Both compute the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate

import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from outmask import kernels
from outmask.models.linear import Linear, is_learning, takes_plain_form

# torch says so once of every sparse matrix in rows; the one product used here is tested.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

LevelSizes = Sequence[tuple[int, int]]

Attend = Callable[[Tensor, Tensor], Tensor]
"""``(B, Q, dim)`` queries and the places ``(Q, heads, levels, points, 2)`` they look around -> ``(B, Q, dim)``."""


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
        self.sampling_offsets = Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
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

    def forward(self, query: Tensor, value: Tensor, places: Tensor, sizes: LevelSizes) -> Tensor:
        """Attend from ``query`` to ``value``.

        Args:
            query: ``(B, Q, dim)`` tokens with their position added.
            value: ``(B, S, dim)`` tokens of all levels, concatenated.
            places: ``(Q, heads, levels, points, 2)`` of the queries; :func:`own_places` gives those of all tokens.
            sizes: ``(height, width)`` of every level; ``S`` is the sum of their products.

        Returns:
            ``(B, Q, dim)``.
        """
        return self.over(value, sizes)(query, places)

    def over(self, value: Tensor, sizes: LevelSizes) -> Attend:
        """The attention to ``value``, to be asked for any queries, a few at a time; arguments as of :meth:`forward`."""
        batch, tokens, dim = value.shape
        value = self.value_proj(value).view(batch, tokens, self.num_heads, dim // self.num_heads)
        sample: Callable[[Tensor, Tensor], Tensor]
        if self.exportable:
            sample = partial(grid_sample_attention, value, sizes)
        elif kernels.available(value) and not torch.are_deterministic_algorithms_enabled():
            from outmask.kernels.deformable import deformable_attention

            sample = partial(deformable_attention, value, sizes)
        else:
            sample = partial(_gather, _padded_table(value, sizes), sizes)

        def attend(query: Tensor, places: Tensor) -> Tensor:
            points = (*query.shape[:2], self.num_heads, self.num_levels, self.num_points)
            weights = _softmax(self.attention_weights(query).view(*points[:3], -1)).view(points)
            # Offsets are in pixels of their level.
            pixels = self.sampling_offsets(query).view(*points, 2) + places
            output: Tensor = self.output_proj(sample(pixels, weights))
            return output

        return attend


def own_places(sizes: LevelSizes, num_heads: int, num_points: int, like: Tensor) -> Tensor:
    """Where each token lies, around which it looks.

    Args:
        sizes: ``(height, width)`` of every level.
        num_heads, num_points: of the attention; all of a token's start from the same place.
        like: gives the device and the dtype, at least float32: bfloat16 places a pixel of a wide map only to a whole
            pixel, so places stay float32 in a bfloat16 model.

    Returns:
        ``(S, heads, levels, points, 2)`` x and y in pixels of each level, 0 = centre of the first; repeated for heads
        and points, so that they are added in long runs of memory.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    centres = []
    for height, width in sizes:
        y = (torch.arange(height, device=like.device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=dtype) + 0.5) / width
        centres.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1))
    # x * width - 1/2 is where grid_sample (align_corners=False) reads.
    x, y = torch.cat(centres).unbind(-1)
    pixels = torch.stack([torch.stack((x * width, y * height), -1) for height, width in sizes], 1) - 0.5
    return pixels[:, None, :, None].expand(-1, num_heads, -1, num_points, -1).contiguous()


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, of a dozen entries: on the CPU torch's own takes several times as long on such rows."""
    if takes_plain_form(logits) or not logits.is_cpu or logits.dtype != torch.float32:
        return logits.softmax(-1)
    exponential = (logits - logits.amax(-1, keepdim=True)).exp_()
    return exponential.div_(exponential.sum(-1, keepdim=True))


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
        x, y = pixels[:, :, :, level].unbind(-1)
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        grid = grid.transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        output = output + (sampled * weight).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def weighted_gather(value: Tensor, sizes: LevelSizes, pixels: Tensor, weights: Tensor) -> Tensor:
    """As :func:`grid_sample_attention`, in one gather: every query and head sums 4 corners of all its points."""
    return _gather(_padded_table(value, sizes), sizes, pixels, weights)


def _padded_table(value: Tensor, sizes: LevelSizes) -> Tensor:
    """``(B, S, heads, d)`` -> ``(B, P, heads, d)``: every level with a border of zeros one pixel wide.

    The zeros are ``grid_sample``'s padding: with them, no corner needs to be asked whether it lies within its level.
    """
    batch, _, heads, channels = value.shape
    table = value.new_zeros(batch, sum(_padded_areas(sizes)), heads, channels)
    first = 0
    levels = torch.split(value, [height * width for height, width in sizes], dim=1)
    for level, area, (height, width) in zip(levels, _padded_areas(sizes), sizes, strict=True):
        padded = table[:, first : first + area].view(batch, height + 2, width + 2, heads, channels)
        padded[:, 1:-1, 1:-1] = level.view(batch, height, width, heads, channels)
        first += area
    return table


def _padded_areas(sizes: LevelSizes) -> list[int]:
    return [(height + 2) * (width + 2) for height, width in sizes]


def _gather(table: Tensor, sizes: LevelSizes, pixels: Tensor, weights: Tensor) -> Tensor:
    """The sum of :func:`weighted_gather` from its padded table."""
    batch, rows, heads, channels = table.shape
    queries, (levels, points) = pixels.shape[1], pixels.shape[3:5]

    def of_points(by_level: Iterable[int], dtype: torch.dtype) -> Tensor:
        """A constant of each level as ``(heads * levels * points,)``: passes over all tokens run through long rows."""
        values = torch.tensor([*by_level], dtype=dtype, device=table.device)
        return values[:, None].expand(heads, -1, points).reshape(-1)

    x, y = pixels.flatten(2, 4).unbind(-1)
    width, height = (of_points(side, pixels.dtype) for side in ([w for _, w in sizes], [h for h, _ in sizes]))
    # Beyond the border everything is zero, as on it.
    x, y = torch.minimum(x, width).clamp(min=-1), torch.minimum(y, height).clamp(min=-1)
    left, top = torch.minimum(x.detach().floor(), width - 1), torch.minimum(y.detach().floor(), height - 1)

    # Row (image, place, head) of the table is table[image, place, head]; 32 bits halve the memory to walk through.
    stride = of_points([(w + 2) * heads for _, w in sizes], torch.int32)
    starts = accumulate(_padded_areas(sizes)[:-1], initial=0)
    origin = of_points([(start + w + 3) * heads for start, (_, w) in zip(starts, sizes, strict=True)], torch.int32)
    origin = origin + torch.arange(heads, dtype=torch.int32, device=table.device).repeat_interleave(levels * points)
    image = torch.arange(batch, dtype=torch.int32, device=table.device).view(-1, 1, 1) * (rows * heads)
    above = top.int().mul_(stride).add_(left.int().mul_(heads)).add_(origin).add_(image)
    below = above + stride

    weights = weights.flatten(2)
    lower = weights * (y - top)
    upper = weights - lower
    fraction = x - left
    upper_right, lower_right = upper * fraction, lower * fraction

    def bags(*corners: Tensor) -> Tensor:
        """``(B * Q * heads, 4 * levels * points)``: a bag is one (image, query, head)."""
        return torch.stack([corner.view(-1, levels * points) for corner in corners], 1).flatten(1)

    index = bags(above, above + heads, below, below + heads)
    coefficient = bags(upper - upper_right, upper_right, lower - lower_right, lower_right).to(table.dtype)
    table = table.view(-1, channels)
    if is_learning(table, coefficient):
        output: Tensor = _WeightedBag.apply(table, index, coefficient)  # type: ignore[no-untyped-call]
    else:
        output = F.embedding_bag(index, table, per_sample_weights=coefficient, mode="sum")
    return output.view(batch, queries, heads * channels)


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

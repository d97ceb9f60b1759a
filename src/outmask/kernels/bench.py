"""What the kernels gain on a GPU: against PyTorch and against what copying memory takes; and frames a second.

Medians of Triton's ``do_bench``, which empties the second-level cache before each run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outmask.errors import OutmaskError
from outmask.models.deformable import grid_sample_attention, own_places, weighted_gather
from outmask.scores.declarations import SCORES, class_probabilities
from outmask.scores.fused import evaluate
from outmask.types import MaskPrediction

_STRIDES = (32, 16, 8)
"""Of the maps that the pixel decoder's deformable layers see."""
_HEADS, _CHANNELS, _POINTS = 8, 32, 4
_MASKS, _CLASSES = 100, 19
_COPIED = 2**28
"""Bytes: well beyond any cache."""


@dataclass(frozen=True)
class KernelTiming:
    """A kernel against the same in PyTorch.

    Attributes:
        name: what is computed, on what.
        peer: how PyTorch computes it.
        milliseconds, peer_milliseconds: medians.
        least_bytes: what has to be moved at least: inputs read once, outputs written once.
        copy_rate: bytes a second that a copy on this device reads and writes.
        difference: the largest of any output, relative to the largest entry; of labels, which can tie, none.
    """

    name: str
    peer: str
    milliseconds: float
    peer_milliseconds: float
    least_bytes: int
    copy_rate: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times faster the kernel is."""
        return self.peer_milliseconds / self.milliseconds

    @property
    def bandwidth_share(self) -> float:
        """Of the rate at which this device copies, the part at which the kernel moves ``least_bytes``."""
        return self.least_bytes / (self.milliseconds / 1e3) / self.copy_rate


@dataclass(frozen=True)
class FrameRate:
    """A whole model against the same of another library, score map included.

    Attributes:
        milliseconds, peer_milliseconds: of the median frame.
        peak_bytes, peer_peak_bytes: the most memory that a frame takes beyond the weights.
        difference: the largest of any logit in float32, relative to the largest logit of its kind.
    """

    milliseconds: float
    peer_milliseconds: float
    peak_bytes: int
    peer_peak_bytes: int
    difference: float

    @property
    def frames_per_second(self) -> float:
        """Of the median frame."""
        return 1e3 / self.milliseconds

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.peer_milliseconds / self.milliseconds


def time_deformable(size: tuple[int, int] = (1024, 2048), dtype: torch.dtype = torch.bfloat16) -> list[KernelTiming]:
    """Deformable attention among one image's maps as in Mask2Former's pixel decoder: forward, then with the gradients.

    Args:
        size: ``(H, W)`` of the image.
        dtype: of the values; places and weights are float32.

    Raises:
        OutmaskError: without a CUDA device or Triton.
    """
    device = _device()
    from outmask.kernels.deformable import deformable_attention

    sizes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in _STRIDES]
    tokens = sum(height * width for height, width in sizes)
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    value = random(1, tokens, _HEADS, _CHANNELS).to(dtype)
    # Every token looks a few pixels around its own place.
    pixels = own_places(sizes, _HEADS, _POINTS, value) + 3 * random(1, tokens, _HEADS, len(sizes), _POINTS, 2)
    weights = random(1, tokens, _HEADS, len(sizes), _POINTS).flatten(3).softmax(-1).view(pixels.shape[:-1])
    grad = random(1, tokens, _HEADS * _CHANNELS).to(dtype)
    leaves = [leaf.requires_grad_() for leaf in (value, pixels, weights)]

    def forward(attend: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (attend(value, sizes, pixels, weights),)

    def both(attend: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(value, sizes, pixels, weights), leaves, grad)

    read = _bytes(value, pixels, weights)
    what = f"deformable attention, {tokens} tokens, {_name(dtype)}"
    timings = []
    for part, run, least in (
        ("forward", forward, read + _bytes(grad)),
        ("both ways", both, 3 * read + 2 * _bytes(grad)),
    ):
        peers = {"weighted gather": partial(run, weighted_gather), "grid_sample": partial(run, grid_sample_attention)}
        timings += _compare(f"{what}, {part}", partial(run, deformable_attention), peers, least, device)
    return timings


def time_scores(
    size: tuple[int, int] = (1024, 2048), dtype: torch.dtype = torch.float32, masks: int = _MASKS
) -> list[KernelTiming]:
    """EAM, AEM and the labels from mask logits at a quarter of the image's size.

    Args:
        size: ``(H, W)`` of the image.
        dtype: of the mask logits.
        masks: N.

    Raises:
        OutmaskError: without a CUDA device or Triton.
    """
    device = _device()
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 3 * torch.randn(shape, generator=generator, device=device)

    quarter = (-(-size[0] // 4), -(-size[1] // 4))
    prediction = MaskPrediction(random(1, masks, _CLASSES + 1), random(1, masks, *quarter).to(dtype))
    scores = [SCORES[name] for name in ("eam", "aem")]

    def engine() -> tuple[Tensor, ...]:
        maps = evaluate(prediction, scores, size)
        return maps["eam"], maps["aem"], maps["labels"]

    least = _bytes(prediction.mask_logits, *engine())
    name = f"EAM, AEM and labels, {masks} masks at {size[0]}x{size[1]}, {_name(dtype)}"
    return _compare(
        name, engine, {"interpolate, sigmoid, einsum": partial(_plain_scores, prediction, size)}, least, device
    )


@torch.no_grad()
def time_frames(
    model: nn.Module,
    peer: nn.Module,
    size: tuple[int, int] = (1024, 2048),
    dtype: torch.dtype = torch.bfloat16,
) -> FrameRate:
    """Images that go through a model and become EAM and AEM maps and labels at full size, here and in another library.

    Decoding images and copying them to the device is left out.

    Args:
        model: a mask classifier, in eval mode: ``(1, 3, H, W)`` pixels -> its prediction.
        peer: the same by the other library, with the same weights. Its scores are had by interpolation, sigmoid and
            einsum. Both stay on the GPU, in ``dtype``.
        size: ``(H, W)`` of the image.
        dtype: of weights and pixels.

    Raises:
        OutmaskError: without a CUDA device or Triton.
    """
    device = _device()
    pixels = torch.randn(1, 3, *size, generator=torch.Generator(device).manual_seed(0), device=device)
    model.to(device)
    peer.to(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        own, other = model(pixels), peer(pixels)
    pairs = ((own.class_logits, other.class_logits), (own.mask_logits, other.mask_logits))
    difference = max(_difference(*pair) for pair in pairs)
    del own, other, pairs
    model.to(dtype)
    peer.to(dtype)
    pixels = pixels.to(dtype)

    def frame() -> dict[str, Tensor]:
        return evaluate(model(pixels), [SCORES["eam"], SCORES["aem"]], size)

    def peer_frame() -> tuple[Tensor, ...]:
        return _plain_scores(peer(pixels), size)

    return FrameRate(
        _median(frame), _median(peer_frame), _peak_bytes(frame, device), _peak_bytes(peer_frame, device), difference
    )


def _plain_scores(prediction: MaskPrediction, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """EAM, AEM and labels of one image, literally."""
    logits = F.interpolate(prediction.mask_logits.float(), size, mode="bilinear", align_corners=False)
    masks = logits[0].sigmoid_()
    probabilities = class_probabilities(prediction.class_logits[0].float())
    pooled = torch.einsum("qc,qhw->chw", probabilities, masks)
    eam = torch.einsum("q,qhw->hw", probabilities.amax(1), masks)
    aem = pooled.max(0)
    return -eam[None], -aem.values[None], aem.indices[None]


def _device() -> torch.device:
    """The GPU that is measured."""
    if not torch.cuda.is_available():
        raise OutmaskError("bench gpu needs a CUDA device, and PyTorch finds none: run it on a machine with a GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    from outmask import kernels

    if not kernels.available(torch.empty(0, device=device)):
        raise OutmaskError("bench gpu needs Triton: pip install triton")
    return device


def _median(run: Callable[[], object]) -> float:
    """Milliseconds."""
    from triton.testing import do_bench

    return float(do_bench(run, return_mode="median"))


def _peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _compare(
    name: str,
    kernel: Callable[[], tuple[Tensor, ...]],
    peers: Mapping[str, Callable[[], tuple[Tensor, ...]]],
    least_bytes: int,
    device: torch.device,
) -> list[KernelTiming]:
    source = torch.empty(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_rate = 2 * _COPIED / (_median(lambda: target.copy_(source)) / 1e3)
    outputs, milliseconds = kernel(), _median(kernel)
    timings = []
    for peer_name, peer in peers.items():
        difference = max(_difference(*pair) for pair in zip(outputs, peer(), strict=True))
        timings.append(KernelTiming(name, peer_name, milliseconds, _median(peer), least_bytes, copy_rate, difference))
    return timings


def _difference(own: Tensor, other: Tensor) -> float:
    return float((own - other).abs().max() / other.abs().max()) if own.is_floating_point() else 0.0


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

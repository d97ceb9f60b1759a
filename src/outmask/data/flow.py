"""A normalising flow of small image patches: it learns their density, and makes up new ones (M2F-EAM, table 8).

Glow (Kingma and Dhariwal 2018) with few, narrow layers, so that a data loader's worker samples it on one core.
Convolutions and per-channel parameters only, so that it makes patches of any size that its scales divide.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from outmask.data.broken import UsableImages
from outmask.data.labels import IGNORE, VOID, Sample
from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.transforms import SampleSource

WEIGHTS, CONFIG = "flow.safetensors", "flow.json"

# exp(+-3) is twentyfold: enough for any step, and no draw from the tails can blow up on its way through the couplings.
_LARGEST_LOG_SCALE = 3.0
# Crops from one decoded image: reading large images is what takes the time, and four of a batch may share one.
_CROPS_PER_IMAGE = 4
# As many drawn images without room for a crop are no accident.
_CROWDED_IN_A_ROW = 100
_WARM_UP = 100
_GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class FlowConfig:
    """Size of a flow.

    Attributes:
        levels: scales; a patch's sides must be multiples of ``2 ** levels``.
        steps: steps of flow at each scale.
        width: channels inside the couplings.

    Raises:
        OutmaskError: on numbers below 1.
    """

    levels: int = 3
    steps: int = 8
    width: int = 64

    def __post_init__(self) -> None:
        if min(self.levels, self.steps, self.width) < 1:
            raise OutmaskError(f"a flow's levels, steps and width must be at least 1, got {self}")


class PatchFlow(nn.Module):
    """An invertible map of RGB patches to latents that are standard normal, so that the density is known:
    ``log p(x) = log N(z; 0, I) + log |det dz/dx|``.

    At each scale 2x2 pixels become channels, then come ``steps`` of activation normalisation, invertible 1x1
    convolution and affine coupling; half of the channels then leave as latents, normalised by a mean and a scale that
    the other half predicts. A fresh flow is an orthogonal map.

    Args:
        config: its size.
    """

    def __init__(self, config: FlowConfig = FlowConfig()) -> None:
        super().__init__()
        self.config = config
        channels = [12 * 2**level for level in range(config.levels)]
        self.levels = nn.ModuleList(_Steps(count, config) for count in channels)
        self.splits = nn.ModuleList(_Split(count) for count in channels[:-1])
        self.top = _ActNorm(channels[-1])

    @property
    def multiple(self) -> int:
        """What a patch's sides must be multiples of."""
        return int(2**self.config.levels)

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents of patches.

        Args:
            pixels: ``(B, 3, H, W)`` floating, in [-0.5, 0.5).

        Returns:
            the latents of each scale, finest first, together as many numbers as there are pixel values; and ``(B,)``
            log-determinants of the map.

        Raises:
            OutmaskError: on sides that are no multiples of :attr:`multiple`.
        """
        self._check_size(pixels.shape[-2:])
        latents = []
        log_det = pixels.new_zeros(len(pixels))
        for index, level in enumerate(self.levels):
            pixels, change = level(F.pixel_unshuffle(pixels, 2))
            log_det = log_det + change
            if index < len(self.splits):
                pixels, latent, change = self.splits[index](pixels)
                latents.append(latent)
                log_det = log_det + change
        latent, change = self.top(pixels)
        return [*latents, latent], log_det + change

    def inverse(self, latents: Sequence[Tensor]) -> Tensor:
        """The patches ``(B, 3, H, W)`` that have these latents."""
        levels: list[Any] = list(self.levels)
        splits: list[Any] = list(self.splits)
        pixels: Tensor = F.pixel_shuffle(levels[-1].inverse(self.top.inverse(latents[-1])), 2)
        for level, split, latent in zip(levels[-2::-1], reversed(splits), latents[-2::-1], strict=True):
            pixels = F.pixel_shuffle(level.inverse(split.inverse(pixels, latent)), 2)
        return pixels

    def log_likelihood(self, pixels: Tensor) -> Tensor:
        """``(B,)`` log-densities in nats, of ``pixels`` as in :meth:`forward`."""
        latents, log_det = self.forward(pixels)
        squares = torch.stack([latent.square().flatten(1).sum(1) for latent in latents]).sum(0)
        return log_det - 0.5 * (squares + pixels[0].numel() * math.log(2 * math.pi))

    def bits_per_dimension(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Bits that each byte of an image costs, an upper bound by uniform dequantisation; smaller = better fitted.

        ``8 - log2 p(v) / D`` with ``v = (image + u) / 256 - 0.5``, u uniform in [0, 1) and D bytes per image.

        Args:
            images: ``(B, 3, H, W)`` uint8.
            rng: of the noise.

        Returns:
            ``(B,)``.
        """
        noise = torch.from_numpy(rng.random(images.shape, dtype=np.float32)).to(images.device)
        values = ((images + noise) / 256 - 0.5).to(self.top.shift.dtype)
        return 8 - self.log_likelihood(values) / (images[0].numel() * math.log(2))

    @torch.no_grad()
    def sample(self, rng: np.random.Generator, size: tuple[int, int], count: int = 1) -> NDArray[np.uint8]:
        """Made-up patches.

        Args:
            rng: of the latents.
            size: height and width, multiples of :attr:`multiple`.
            count: how many.

        Returns:
            ``(count, H, W, 3)`` uint8 RGB.

        Raises:
            OutmaskError: on other sizes.
        """
        self._check_size(size)
        latents = []
        for level in range(1, self.config.levels + 1):
            channels = 6 * 2 ** (level - 1) * (2 if level == self.config.levels else 1)
            shape = (count, channels, size[0] >> level, size[1] >> level)
            noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
            latents.append(noise.to(self.top.shift))
        values = ((self.inverse(latents) + 0.5) * 256).floor().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())

    def save(self, path: str | Path) -> None:
        """Write ``flow.safetensors`` and ``flow.json``, each whole or not at all, into the folder ``path``, which is
        made.

        Raises:
            OutmaskError: where they can't be written.
        """
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        _write(Path(path) / WEIGHTS, lambda file: file.write(save(weights)))
        _write(Path(path) / CONFIG, lambda file: file.write((json.dumps(asdict(self.config)) + "\n").encode()))

    @classmethod
    def load(cls, path: str | Path) -> PatchFlow:
        """The flow that :meth:`save` wrote, on the CPU, in eval mode.

        Raises:
            OutmaskError: where the folder holds none, or weights and configuration differ.
        """
        path = Path(path)
        try:
            flow = cls(FlowConfig(**json.loads((path / CONFIG).read_text(encoding="utf-8"))))
            flow.load_state_dict(load_file(path / WEIGHTS))
        except FileNotFoundError:
            raise OutmaskError(f"{path} holds no flow; expected {WEIGHTS} and {CONFIG}, as train_flow's are") from None
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise OutmaskError(f"{path}: can't read the flow ({' '.join(str(error).split())[:200]})") from None
        return flow.eval()

    def _check_size(self, size: Sequence[int]) -> None:
        if any(side < 1 or side % self.multiple for side in size):
            raise OutmaskError(f"the flow needs sides that are multiples of {self.multiple}, got {tuple(size)}")


class _Steps(nn.Sequential):
    """The steps of flow at one scale."""

    def __init__(self, channels: int, config: FlowConfig) -> None:
        super().__init__()
        for _ in range(config.steps):
            self.extend((_ActNorm(channels), _Mixing(channels), _Coupling(channels, config.width)))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        log_det = values.new_zeros(len(values))
        for layer in self:
            values, change = layer(values)
            log_det = log_det + change
        return values, log_det

    def inverse(self, values: Tensor) -> Tensor:
        layers: list[Any] = list(self)
        for layer in reversed(layers):
            values = layer.inverse(values)
        return values


class _ActNorm(nn.Module):
    """Shift and scale per channel; in training, the first batch sets them so that it leaves with mean 0, variance 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.ready: Tensor
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.ready:
            self._initialise(values.detach())
        return (values + self.shift) * self.log_scale.exp(), self.log_scale.sum() * values[0, 0].numel()

    def inverse(self, values: Tensor) -> Tensor:
        return values * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def _initialise(self, values: Tensor) -> None:
        deviation, mean = torch.std_mean(values, dim=(0, 2, 3), keepdim=True)
        self.shift.copy_(-mean)
        # A channel that is constant in the first batch must not be blown up for ever.
        self.log_scale.copy_(-deviation.clamp_min(1e-3).log())
        self.ready.fill_(True)


class _Mixing(nn.Module):
    """Invertible 1x1 convolution, at first a random rotation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mixed = F.conv2d(values, self.weight[..., None, None])
        return mixed, torch.linalg.slogdet(self.weight).logabsdet * values[0, 0].numel()

    def inverse(self, values: Tensor) -> Tensor:
        return F.conv2d(values, torch.linalg.inv(self.weight)[..., None, None])


class _Coupling(nn.Module):
    """Affine coupling: half of the channels says how the other half is scaled and shifted; at first not at all."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), last
        )

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = values.chunk(2, dim=1)
        log_scale, shift = _scale_and_shift(self.network(kept))
        return torch.cat([kept, changed * log_scale.exp() + shift], 1), log_scale.flatten(1).sum(1)

    def inverse(self, values: Tensor) -> Tensor:
        kept, changed = values.chunk(2, dim=1)
        log_scale, shift = _scale_and_shift(self.network(kept))
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], 1)


class _Split(nn.Module):
    """Half of the channels leave as latents, scaled and shifted as the half that stays predicts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels // 2, channels, 3, padding=1)
        nn.init.zeros_(self.prior.weight)
        assert self.prior.bias is not None
        nn.init.zeros_(self.prior.bias)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, leaving = values.chunk(2, dim=1)
        log_scale, shift = _scale_and_shift(self.prior(kept))
        return kept, leaving * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, kept: Tensor, latent: Tensor) -> Tensor:
        log_scale, shift = _scale_and_shift(self.prior(kept))
        return torch.cat([kept, (latent - shift) * (-log_scale).exp()], 1)


def _scale_and_shift(prediction: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = prediction.chunk(2, dim=1)
    return _LARGEST_LOG_SCALE * torch.tanh(log_scale / _LARGEST_LOG_SCALE), shift


def train_flow(
    images: SampleSource,
    config: FlowConfig = FlowConfig(),
    *,
    iterations: int = 5000,
    batch_size: int = 16,
    patch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    progress: Callable[[int, float], None] | None = None,
) -> PatchFlow:
    """Train a flow on random crops of known scenes, by maximum likelihood; see :func:`inlier_crops`.

    Every batch is a function of seed and iteration alone, so a run that was killed gives, resumed, the flow that it
    would have given.

    Args:
        images: the training images; broken ones are passed over.
        config: the flow's size.
        iterations: of Adam, with a linear warm-up over the first 100.
        batch_size: crops per iteration; up to four come from one image.
        patch: side of the crops in pixels; samples of other sizes are as good as the layers' margins allow.
        learning_rate: after the warm-up.
        seed: of weights, crops and noise.
        workers: processes that read images.
        device: where to train.
        checkpoint: file to resume from, if it exists, and to keep every ``checkpoint_every`` iterations.
        checkpoint_every: iterations between checkpoints.
        progress: called after each iteration with the number of those done and the batch's bits per dimension.

    Returns:
        the trained flow, on the CPU, in eval mode.

    Raises:
        OutmaskError: on numbers that make no sense, images that the crops don't fit, a checkpoint of other settings or
            one that can't be written, or a loss that is not finite.
    """
    if min(iterations, batch_size, checkpoint_every) < 1 or not len(images):
        raise OutmaskError(
            f"training a flow needs images, iterations, a batch and a checkpoint interval of at least 1, got "
            f"{len(images)}, {iterations}, {batch_size} and {checkpoint_every}"
        )
    if patch < 1 or patch % 2**config.levels:
        raise OutmaskError(f"patch must be a multiple of {2**config.levels} pixels, got {patch}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = PatchFlow(config)
    flow.to(device).train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate)
    settings = {
        **asdict(config),
        "images": len(images),
        "batch_size": batch_size,
        "patch": patch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    path = None if checkpoint is None else Path(checkpoint)
    done = 0
    if path is not None and path.exists():
        state = _read_checkpoint(path, settings)
        done = int(state["iterations"])
        flow.load_state_dict(state["flow"])
        optimizer.load_state_dict(state["optimizer"])
    batches = DataLoader(
        _Crops(UsableImages.of(images), batch_size, patch, seed),
        batch_size=None,
        sampler=range(done, iterations),
        num_workers=workers,
        generator=torch.Generator(),  # or it would draw from the caller's
    )
    for crops in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (done + 1) / _WARM_UP)
        optimizer.zero_grad(set_to_none=True)
        bits = flow.bits_per_dimension(crops.to(device), np.random.default_rng((seed, 1, done))).mean()
        if not torch.isfinite(bits):
            raise OutmaskError(f"the flow's loss is not finite after {done} iterations: lower learning_rate")
        bits.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(flow.parameters(), _GRADIENT_CLIP)
        optimizer.step()
        done += 1
        if path is not None and (done % checkpoint_every == 0 or done == iterations):
            state = {
                "settings": settings,
                "iterations": done,
                "flow": flow.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            _write(path, partial(torch.save, state))
        if progress is not None:
            progress(done, float(bits.detach()))
    return flow.cpu().eval()


def inlier_crops(images: SampleSource, count: int, patch: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Square crops that show known classes only: none holds a void, pasted or ignored pixel.

    Args:
        images: labelled images; up to four crops come from one.
        count: how many.
        patch: their side in pixels.
        rng: every random choice comes from it.

    Returns:
        ``(count, patch, patch, 3)`` uint8 RGB.

    Raises:
        OutmaskError: on an image that is smaller than a crop, or where many in a row have no room for one.
    """
    crops: list[NDArray[np.uint8]] = []
    crowded = 0
    while len(crops) < count:
        sample = images[int(rng.integers(len(images)))]
        height, width = sample.labels.shape
        if min(height, width) < patch:
            raise OutmaskError(
                f"{sample.name}: a flow's crops of {patch} pixels don't fit the image of {width}x{height}"
            )
        corners = _inlier_corners(sample, patch)
        crowded = 0 if len(corners) else crowded + 1
        if crowded == _CROWDED_IN_A_ROW:
            raise OutmaskError(
                f"{crowded} images in a row, the last {sample.name}, have no {patch}x{patch} pixels that are all of "
                "known classes: a flow needs smaller patches"
            )
        if crowded:
            continue
        for corner in rng.choice(corners, min(_CROPS_PER_IMAGE, count - len(crops))):
            top, left = divmod(int(corner), width - patch + 1)
            crops.append(sample.image[top : top + patch, left : left + patch])
    return np.stack(crops)


def _inlier_corners(sample: Sample, patch: int) -> NDArray[np.intp]:
    """Upper left corners of the squares that show known classes only, numbered row by row among all squares'."""
    unknown = (sample.labels == VOID) | (sample.labels == IGNORE) | sample.outlier
    total = cv2.integral(unknown.view(np.uint8))  # (H + 1, W + 1): how many lie above and to the left
    inside = total[patch:, patch:] - total[:-patch, patch:] - total[patch:, :-patch] + total[:-patch, :-patch]
    return np.flatnonzero(inside == 0)


class _Crops(Dataset[Tensor]):
    """Batches of random crops ``(B, 3, patch, patch)`` uint8; batch i is a function of the seed and i alone."""

    def __init__(self, images: SampleSource, batch_size: int, patch: int, seed: int) -> None:
        self.images, self.batch_size, self.patch, self.seed = images, batch_size, patch, seed

    def __getitem__(self, index: int) -> Tensor:
        crops = inlier_crops(self.images, self.batch_size, self.patch, np.random.default_rng((self.seed, 0, index)))
        return torch.from_numpy(crops).permute(0, 3, 1, 2)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Beside, then renamed: what is at ``path`` is whole, and the last good one survives whatever happens."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise OutmaskError(f"{path} can't be written ({reason}): make room, or choose another folder") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _read_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        kept = state["settings"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise OutmaskError(f"{path} is no checkpoint of a flow ({str(error).splitlines()[0][:100]})") from None
    if differing := [name for name, value in settings.items() if kept.get(name) != value]:
        raise OutmaskError(
            f"{path} is a checkpoint of another flow, {', '.join(differing)} differ: remove it or name another"
        )
    return state

"""Joint transforms of an image and its labels, the order in which a run draws its samples, and batches of them.

Every random choice comes from a generator that the caller hands in, so that draw number i of a run is the same sample
whenever, and in whatever process, it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import cv2
import kornia.augmentation
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from outmask.data.broken import UsableImages
from outmask.data.labels import IGNORE, VOID, Sample, Target
from outmask.data.negatives import NegativeSource, PasteNegatives
from outmask.errors import OutmaskError

T = TypeVar("T", bound=np.generic)

Transform = Callable[[Sample, np.random.Generator], Sample]

PADDING_COLOR = (124, 116, 104)
"""ImageNet's mean colour (0.485, 0.456, 0.406) in bytes: 0 after normalisation, like a convolution's own padding."""


class SampleSource(Protocol):
    """A map-style dataset of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Compose:
    """Several transforms, one after the other, all drawing from the same generator."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class RandomScaleCrop:
    """Resize to a uniformly drawn short side, then crop at a uniform place; the aspect ratio is kept.

    Images are resized bilinearly (by area where they shrink), labels and outlier masks by nearest neighbour. Where the
    resized image is smaller than the crop it lies at a uniform place and the rest is padding: :data:`PADDING_COLOR`,
    labelled ``IGNORE``, no outlier.

    Args:
        size: height and width of the crop in pixels.
        short_side: fewest and most pixels of the resized image's short side, both included.

    Raises:
        OutmaskError: on sizes below 1, or a falling pair.
    """

    def __init__(self, size: tuple[int, int], short_side: tuple[int, int]) -> None:
        if min(size) < 1:
            raise OutmaskError(f"the crop's size must be at least 1 pixel each way, got {tuple(size)}")
        if not 1 <= short_side[0] <= short_side[1]:
            raise OutmaskError(f"short_side must be a rising pair of pixels, got {tuple(short_side)}")
        self.size = (int(size[0]), int(size[1]))
        self.short_side = (int(short_side[0]), int(short_side[1]))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.labels.shape
        scale = int(rng.integers(self.short_side[0], self.short_side[1] + 1)) / min(height, width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        sample = _resize(sample, resized)
        rows = _placement(resized[0], self.size[0], rng)
        columns = _placement(resized[1], self.size[1], rng)
        source = (slice(*rows[0]), slice(*columns[0]))
        if resized[0] >= self.size[0] and resized[1] >= self.size[1]:
            # Copies, so that a worker does not keep the whole resized image alive.
            return sample.map(lambda values: values[source].copy())
        place = (slice(*rows[1]), slice(*columns[1]))

        def padded(values: NDArray[T], filling: Any) -> NDArray[T]:
            canvas = np.empty((*self.size, *values.shape[2:]), values.dtype)
            canvas[:] = filling
            canvas[place] = values[source]
            return canvas

        return Sample(
            padded(sample.image, PADDING_COLOR),
            padded(sample.labels, IGNORE),
            padded(sample.outlier, False),
            sample.name,
            None if sample.instances is None else padded(sample.instances, 0),
        )


class RandomFlip:
    """Mirror left and right with probability 1/2."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= 0.5:
            return sample
        return sample.map(lambda values: np.ascontiguousarray(values[:, ::-1]))


@dataclass(frozen=True)
class TreatVoid:
    """What the pixels that a dataset leaves void mean, before anything is pasted (baselines of Hwang et al. 2021).

    As they are, no mask claims them (*void-background*). *void-ignorance* leaves them out of every loss; as outliers
    they are what a loss on pasted pixels learns from: *void-suppression*, or *void-train*, where they are one more
    class. In panoptic training each 8-connected region of them is an object then, if it is large enough to be one.

    Attributes:
        become: what they are turned into.
        smallest: pixels that a region needs to be an outlier: what lies along borders is no object.
    """

    become: Literal["ignore", "outlier"]
    smallest: int = 32 * 32

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        void = sample.labels == VOID
        if self.become == "ignore":
            labels = np.where(void, np.uint8(IGNORE), sample.labels)
            return replace(sample, labels=labels, outlier=sample.outlier & ~void)
        _, regions, statistics, _ = cv2.connectedComponentsWithStats((void & ~sample.outlier).view(np.uint8))
        kept = statistics[:, cv2.CC_STAT_AREA] >= self.smallest
        kept[0] = False  # what is not void
        outlier = sample.outlier | kept[regions]
        if sample.instances is None:
            return replace(sample, outlier=outlier)
        numbers = np.where(kept, kept.cumsum() + int(sample.instances.max()), 0).astype(np.uint16)[regions]
        return replace(sample, outlier=outlier, instances=np.where(kept[regions], numbers, sample.instances))


class ColorJitter(nn.Module):
    """Brightness, contrast, saturation and hue of a batch, each image by its own draw from torch's generator.

    Args:
        brightness, contrast, saturation: largest relative change.
        hue: largest shift, as a fraction of the colour circle.
        probability: share of the images that are changed.
    """

    def __init__(
        self,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.05,
        probability: float = 0.8,
    ) -> None:
        super().__init__()
        self.jitter = kornia.augmentation.ColorJitter(brightness, contrast, saturation, hue, p=probability)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Jittered pixels.

        Args:
            pixels: ``(B, 3, H, W)`` floating RGB in [0, 1].

        Returns:
            the same shape and range.
        """
        jittered: Tensor = self.jitter(pixels)
        return jittered.clamp_(0, 1)


class DrawnSamples(Dataset[Sample]):
    """All draws of a training run, in order.

    Item i is a function of the seed and i alone. A run that was killed after ``step`` batches goes on where it was with
    ``DataLoader(drawn, sampler=range(step * batch_size, len(drawn)), ...)``.

    An epoch has as many draws as the datasets have images. In it each dataset gets its share, in an order shuffled
    anew, and each dataset's images are all seen once before any is seen again.

    An image that can't be used (a corrupt file, labels with ids of no class) is named once in a warning, and whenever
    it is drawn, the next image of its dataset takes its place. :attr:`broken` counts them, over all loading processes.
    Too many of them are an error; see :class:`outmask.data.broken.BrokenItems`.

    Args:
        datasets: where the images come from.
        transforms: applied to each draw, in order.
        seed: of order and transforms.
        length: draws of the whole run, usually iterations x batch size.
        weights: share of the draws of each dataset, up to a factor; by default its number of images.

    Raises:
        OutmaskError: without images, or on weights that do not fit the datasets; at reading, where too many images
            can't be used.
    """

    def __init__(
        self,
        datasets: Sequence[SampleSource],
        transforms: Sequence[Transform],
        *,
        seed: int,
        length: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        sizes = [len(dataset) for dataset in datasets]
        if not sizes or min(sizes) == 0:
            raise OutmaskError(f"training needs datasets that have images, got datasets of {sizes} images")
        if length < 0 or seed < 0:
            raise OutmaskError(f"seed and length must not be negative, got {seed} and {length}")
        if weights is not None and (len(weights) != len(sizes) or min(weights) < 0 or sum(weights) <= 0):
            raise OutmaskError(f"weights must be {len(sizes)} positive numbers, one per dataset, got {list(weights)}")
        self.datasets = tuple(UsableImages.of(dataset) for dataset in datasets)
        self.transform = Compose(transforms)
        self.seed = seed
        self.length = length
        self._quotas = sizes if weights is None else _quotas(sum(sizes), weights)
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"draw {index} of {self.length}")
        dataset, image = self.source(index)
        return self.transform(self.datasets[dataset][image], np.random.default_rng((self.seed, 0, index)))

    @property
    def broken(self) -> list[int]:
        """How many images of each dataset were found that can't be used."""
        return [dataset.broken for dataset in self.datasets]

    def source(self, index: int) -> tuple[int, int]:
        """Which dataset, and which of its images, draw ``index`` shows."""
        epoch, position = divmod(index, sum(self._quotas))
        if self._epoch[0] != epoch:
            order = np.repeat(np.arange(len(self._quotas)), self._quotas)
            np.random.default_rng((self.seed, 1, epoch)).shuffle(order)
            self._epoch = (epoch, order)
        order = self._epoch[1]
        dataset = int(order[position])
        earlier = epoch * self._quotas[dataset] + int(np.count_nonzero(order[:position] == dataset))
        turn, place = divmod(earlier, len(self.datasets[dataset]))
        if dataset not in self._orders or self._orders[dataset][0] != turn:
            rng = np.random.default_rng((self.seed, 2, dataset, turn))
            self._orders[dataset] = (turn, rng.permutation(len(self.datasets[dataset])))
        return dataset, int(self._orders[dataset][1][place])


class PastedValidation(Dataset[Sample]):
    """A validation set with objects pasted on every image, the same at every call.

    Args:
        dataset: the images.
        source: the objects; for an honest validation one that training never used.
        seed: of the objects, their sizes and places.
        count: fewest and most objects per image.
        relative_size: see :func:`outmask.data.negatives.paste`.
    """

    def __init__(
        self,
        dataset: SampleSource,
        source: NegativeSource,
        *,
        seed: int = 0,
        count: tuple[int, int] = (1, 3),
        relative_size: tuple[float, float] | None = (0.1, 0.8),
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self._paste = PasteNegatives(source, 1.0, count, relative_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self._paste(self.dataset[index], np.random.default_rng((self.seed, 3, index)))


@dataclass(frozen=True)
class Batch:
    """Training images of one size.

    Attributes:
        pixels: ``(B, 3, H, W)`` uint8 RGB.
        targets: B targets of ``H x W`` pixels.
        names: B names.
        draws: the number of each in its run (see :class:`DrawnSamples`), which seeds its colours and points.
    """

    pixels: Tensor
    targets: list[Target]
    names: list[str]
    draws: tuple[int, ...] = ()

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """The same batch on ``device``; ``options`` as of ``torch.Tensor.to``."""
        targets = [target.to(device, **options) for target in self.targets]
        return replace(self, pixels=self.pixels.to(device, **options), targets=targets)


def collate(samples: Sequence[Sample], num_classes: int) -> Batch:
    """Stack samples of one size into a batch; ``partial(collate, num_classes=K)`` is a DataLoader's ``collate_fn``.

    Raises:
        OutmaskError: on samples of different sizes, or labels that are no class ids below ``num_classes``.
    """
    if len(sizes := {sample.labels.shape for sample in samples}) != 1:
        raise OutmaskError(f"a batch needs images of one size, got {sorted(sizes)}: crop them")
    pixels = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).contiguous()
    targets = [Target.from_labels(sample.labels, sample.outlier, num_classes, sample.instances) for sample in samples]
    return Batch(pixels, targets, [sample.name for sample in samples])


def _resize(sample: Sample, size: tuple[int, int]) -> Sample:
    if size == sample.labels.shape:
        return sample
    shape = (size[1], size[0])
    smooth = cv2.INTER_AREA if size[0] < sample.labels.shape[0] else cv2.INTER_LINEAR

    def nearest(values: NDArray[T]) -> NDArray[T]:
        # INTER_NEAREST_EXACT takes the pixel at the same centre as the smooth filters; INTER_NEAREST is half a pixel
        # off.
        return np.asarray(cv2.resize(values, shape, interpolation=cv2.INTER_NEAREST_EXACT), values.dtype)

    return Sample(
        np.asarray(cv2.resize(sample.image, shape, interpolation=smooth), np.uint8),
        nearest(sample.labels),
        nearest(sample.outlier.view(np.uint8)).view(np.bool_),
        sample.name,
        None if sample.instances is None else nearest(sample.instances),
    )


def _placement(available: int, wanted: int, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Along one axis: the span to take from the image, and the span of the crop that it fills."""
    offset = int(rng.integers(0, abs(available - wanted) + 1))
    if available >= wanted:
        return (offset, offset + wanted), (0, wanted)
    return (0, available), (offset, offset + available)


def _quotas(total: int, weights: Sequence[float]) -> list[int]:
    """Split ``total`` draws in proportion to the weights, by largest remainders."""
    exact = np.asarray(weights, dtype=np.float64) * total / sum(weights)
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: total - int(quotas.sum())]] += 1
    return [int(quota) for quota in quotas]

from collections.abc import Sequence

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Dataset

from outmask.data.flow import FlowConfig, PatchFlow
from outmask.data.labels import VOID, Sample
from outmask.data.negatives import FlowSamples, FolderObjects, InlierPatches, PasteNegatives
from outmask.data.transforms import DrawnSamples
from outmask.errors import OutmaskError


def numbered(value: int, height: int = 12, width: int = 20) -> Sample:
    """An image whose red channel is its value, green its row and blue its column."""
    image = np.full((height, width, 3), value, np.uint8)
    image[..., 1], image[..., 2] = np.ogrid[:height, :width]
    return Sample(image, np.zeros((height, width), np.uint8), np.zeros((height, width), bool), f"{value}")


class Images(Dataset[Sample]):
    """A dataset of given samples that counts how often each is read."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.reads = samples, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return self.samples[index]


def test_an_inlier_patch_is_a_square_window_of_another_image() -> None:
    batch = [numbered(5), numbered(6, 9, 40)]
    seen = set()
    for seed in range(100):
        (cutout,) = InlierPatches((4, 7)).sample(np.random.default_rng(seed), batch)
        side = len(cutout.mask)
        assert cutout.mask.shape == (side, side)
        assert cutout.mask.all()
        value, top, left = (int(number) for number in cutout.rgb[0, 0])
        assert np.array_equal(cutout.rgb, batch[value - 5].image[top : top + side, left : left + side])
        seen.add((value, side))
    assert seen == {(value, side) for value in (5, 6) for side in (4, 5, 6, 7)}


def test_patches_are_no_larger_than_their_image() -> None:
    for sides in ((5, 100), (50, 100)):
        sizes = {InlierPatches(sides).sample(np.random.default_rng(s), [numbered(1)])[0].mask.shape for s in range(60)}
        assert max(sizes) == (12, 12)
        assert min(sizes) == ((5, 5) if sides[0] == 5 else (12, 12))


def test_without_other_images_there_are_no_patches() -> None:
    with pytest.raises(OutmaskError, match="give PasteNegatives the training images"):
        PasteNegatives(InlierPatches(), 1.0)(numbered(1), np.random.default_rng(0))


@pytest.mark.parametrize("side", [(0, 5), (7, 5)])
def test_sides_must_rise(side: tuple[int, int]) -> None:
    with pytest.raises(OutmaskError, match="rising pair"):
        InlierPatches(side)
    with pytest.raises(OutmaskError, match="rising pair"):
        FlowSamples(PatchFlow(FlowConfig(1, 1, 1)), side)


def test_others_are_all_training_images_alike_and_a_draw_depends_on_seed_and_number_alone() -> None:
    parts = [Images([numbered(value) for value in range(3)]), Images([numbered(3)])]
    training = ConcatDataset(parts)
    transform = PasteNegatives(InlierPatches((4, 4)), 1.0, (1, 1), None, others=training)
    drawn = DrawnSamples(parts, [transform], seed=0, length=800)
    origins = np.zeros(4, int)
    for number in range(800):
        sample = drawn[number]
        # The patch's inner pixels are not blended.
        rows, columns = np.flatnonzero(sample.outlier.any(1)), np.flatnonzero(sample.outlier.any(0))
        origins[sample.image[rows[1], columns[1], 0]] += 1
    # 200 expected of each, standard deviation 12.2: five of them.
    assert (np.abs(origins - 200) < 62).all()
    again = DrawnSamples(parts, [transform], seed=0, length=800)[613]
    assert np.array_equal(again.image, drawn[613].image)
    assert np.array_equal(again.labels == VOID, drawn[613].outlier)


def test_sources_that_need_no_other_images_read_none(davis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    others = Images([numbered(1)])
    PasteNegatives(FolderObjects(davis(tmp_path, {"camel_0": 10})), 1.0, others=others)(
        numbered(2), np.random.default_rng(0)
    )
    assert others.reads == 0
    PasteNegatives(InlierPatches(), 1.0, (1, 1), others=others)(numbered(2), np.random.default_rng(0))
    assert others.reads == 1


def test_flow_samples_are_rectangles_of_all_sizes_that_the_scales_allow() -> None:
    source = FlowSamples(PatchFlow(FlowConfig(levels=2, steps=1, width=2)), (8, 16))
    rng = np.random.default_rng(0)
    drawn = [source.sample(rng, ())[0] for _ in range(80)]
    assert {cutout.mask.shape for cutout in drawn} == {(h, w) for h in (8, 12, 16) for w in (8, 12, 16)}
    assert all(cutout.mask.all() for cutout in drawn)
    assert len({cutout.rgb.tobytes() for cutout in drawn}) == 80
    one, two = (source.sample(np.random.default_rng(3), ())[0].rgb for _ in range(2))
    assert np.array_equal(one, two)


def test_sides_that_the_flow_can_not_make_are_refused() -> None:
    with pytest.raises(OutmaskError, match="multiples of the flow's 4 pixels"):
        FlowSamples(PatchFlow(FlowConfig(levels=2, steps=1, width=2)), (8, 18))

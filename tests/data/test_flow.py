import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outmask.data.flow import FlowConfig, PatchFlow, inlier_crops, train_flow
from outmask.data.labels import IGNORE, VOID, Sample
from outmask.errors import OutmaskError

SMALL = FlowConfig(levels=2, steps=2, width=8)


def stirred(config: FlowConfig = SMALL, seed: int = 0) -> PatchFlow:
    """A flow in double precision none of whose layers is the identity."""
    torch.manual_seed(seed)
    flow = PatchFlow(config).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow


def patches(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


class Ramps:
    """Images that are easy to learn: one colour ramp, with little noise."""

    def __init__(self, count: int = 4, size: tuple[int, int] = (24, 40)) -> None:
        rng = np.random.default_rng(0)
        ramp = np.linspace(60, 140, size[1])[None, :, None] + rng.normal(0, 2, (count, *size, 3))
        self.images = ramp.round().clip(0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        size = self.images.shape[1:3]
        return Sample(self.images[index], np.zeros(size, np.uint8), np.zeros(size, bool), f"ramp{index}")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 100))
def test_the_latents_say_all_about_a_patch(levels: int, rows: int, columns: int, seed: int) -> None:
    flow = stirred(FlowConfig(levels, 2, 4), seed)
    pixels = patches(2, rows * flow.multiple, columns * flow.multiple, seed)
    with torch.no_grad():
        latents, _ = flow(pixels)
        restored = flow.inverse(latents)
    assert sum(latent[0].numel() for latent in latents) == pixels[0].numel()
    # Double precision through some ten well-conditioned layers.
    assert torch.allclose(restored, pixels, rtol=0, atol=1e-9)


def test_the_log_determinant_is_that_of_the_map_by_finite_differences() -> None:
    flow, pixels = stirred(), patches(1, 4, 8)
    step = 1e-5
    size = pixels.numel()
    nudges = step * torch.eye(size, dtype=torch.float64).reshape(size, *pixels.shape[1:])
    with torch.no_grad():

        def flat(values: Tensor) -> Tensor:
            return torch.cat([latent.flatten(1) for latent in flow(values)[0]], 1)

        jacobian = (flat(pixels + nudges) - flat(pixels - nudges)) / (2 * step)
        log_det = flow(pixels)[1]
    # Central differences are off by step**2, rounding by 1e-16 / step: about 1e-10 in each of 96 rows.
    assert float(log_det) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-6)
    assert abs(float(log_det)) > 1, "the map tested is one that changes volumes"


def test_the_likelihood_is_the_latents_normal_density_times_the_change_of_volume() -> None:
    flow, pixels = stirred(), patches(3, 8, 4)
    with torch.no_grad():
        latents, log_det = flow(pixels)
        likelihood = flow.log_likelihood(pixels)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = log_det + sum(standard.log_prob(latent).flatten(1).sum(1) for latent in latents)
    assert torch.allclose(likelihood, expected, rtol=1e-12)


def test_a_fresh_flow_is_an_orthogonal_map_whose_likelihood_has_a_closed_form() -> None:
    flow = PatchFlow(SMALL).double().eval()
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    noise = np.random.default_rng(5).random((2, 3, 8, 8), dtype=np.float32)
    values = (images.numpy() + noise) / 256 - 0.5
    with torch.no_grad():
        bits = flow.bits_per_dimension(images, np.random.default_rng(5))
    nats = 0.5 * (values**2).sum((1, 2, 3)) + 0.5 * values[0].size * math.log(2 * math.pi)
    # The noise has single precision.
    assert np.allclose(bits.numpy(), 8 + nats / (values[0].size * math.log(2)), rtol=1e-5)


def test_the_first_batch_sets_the_normalisation_also_of_constant_channels() -> None:
    flow = PatchFlow(SMALL)
    black = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    flow.train().bits_per_dimension(black, np.random.default_rng(0))
    assert all(torch.isfinite(parameter).all() for parameter in flow.parameters())
    flow = PatchFlow(SMALL).double().train()
    with torch.no_grad():
        latents, _ = flow(patches(64, 8, 8))
    mean, deviation = latents[-1].mean((0, 2, 3)), latents[-1].std((0, 2, 3))
    assert torch.allclose(mean, torch.zeros(24, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(deviation, torch.ones(24, dtype=torch.float64), atol=1e-9)
    kept = [parameter.clone() for parameter in flow.parameters()]
    flow.bits_per_dimension(black, np.random.default_rng(0))
    assert all(torch.equal(one, other) for one, other in zip(kept, flow.parameters(), strict=True))


def test_samples_are_patches_of_the_size_and_a_function_of_the_generator() -> None:
    flow = PatchFlow(SMALL)
    drawn = flow.sample(np.random.default_rng(0), (12, 8), count=2)
    assert drawn.shape == (2, 12, 8, 3)
    assert drawn.dtype == np.uint8
    assert drawn.min() == 0
    assert drawn.max() == 255, "a fresh flow's values are standard normal, far wider than the range of pixels"
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn, flow.sample(np.random.default_rng(0), (12, 8), count=2))


def test_samples_follow_the_density() -> None:
    """Of a flow that only scales and shifts the pixels, their mean and deviation are known."""
    flow = PatchFlow(FlowConfig(levels=1, steps=1, width=1)).eval()
    with torch.no_grad():
        flow.top.log_scale.fill_(math.log(256 / 20))
    drawn = flow.sample(np.random.default_rng(0), (64, 64))
    # 12288 values of deviation 20: the mean's is 0.18, the deviation's 0.13; five of each. Rounding down costs 0.5.
    assert float(drawn.mean()) == pytest.approx(127.5, abs=0.9)
    assert float(drawn.std()) == pytest.approx(20, abs=0.7)


@pytest.mark.parametrize("size", [(12, 10), (0, 8), (8, 2)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    flow = PatchFlow(SMALL)
    with pytest.raises(OutmaskError, match="multiples of 4"):
        flow.sample(np.random.default_rng(0), size)
    with pytest.raises(OutmaskError, match="multiples of 4"):
        flow(torch.zeros(1, 3, *size))
    with pytest.raises(OutmaskError, match="at least 1"):
        FlowConfig(levels=0)


def test_training_lowers_the_bits_and_the_samples_look_like_what_was_shown() -> None:
    reports: list[tuple[int, float]] = []
    flow = train_flow(
        Ramps(),
        FlowConfig(levels=2, steps=1, width=8),
        iterations=120,
        batch_size=4,
        patch=16,
        learning_rate=1e-2,
        progress=lambda done, bits: reports.append((done, bits)),
    )
    assert [done for done, _ in reports] == list(range(1, 121))
    last = np.mean([bits for _, bits in reports[-20:]])
    # Noise of deviation 2 costs log2(2 sqrt(2 pi e)) = 3.05 bits; normalisation alone leaves the ramp's 80 grey values.
    assert reports[0][1] > last + 1
    assert 3.05 < last < 4.5
    assert not flow.training
    drawn = flow.sample(np.random.default_rng(0), (16, 16), count=8).astype(float)
    assert 50 < np.median(drawn) < 150
    assert np.abs(np.diff(drawn, axis=2)).mean() < 10, "neighbours are alike, as in the ramp"


def test_a_resumed_run_gives_the_flow_of_an_uninterrupted_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "patch": 8, "checkpoint_every": 3, "seed": 7}
    whole = train_flow(Ramps(), SMALL, iterations=8, **options)
    path = tmp_path / "run/flow.ckpt"
    done: list[int] = []

    def stop(iteration: int, bits: float) -> None:
        done.append(iteration)
        if iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_flow(Ramps(), SMALL, iterations=8, checkpoint=path, progress=stop, **options)
    resumed = train_flow(Ramps(), SMALL, iterations=8, checkpoint=path, progress=stop_after(done), **options)
    assert done == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    again = train_flow(Ramps(), SMALL, iterations=8, checkpoint=path, progress=stop_after(done), **options)
    assert len(done) == 10, "a finished run is only read"
    assert torch.equal(again.top.shift, whole.top.shift)
    assert [file.name for file in path.parent.iterdir()] == ["flow.ckpt"]


def stop_after(done: list[int]) -> Any:
    return lambda iteration, bits: done.append(iteration)


def test_training_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_flow(Ramps(), SMALL, iterations=1, batch_size=1, patch=8)
    assert torch.equal(torch.rand(1), expected)


def test_a_checkpoint_of_another_flow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flow.ckpt"
    train_flow(Ramps(), SMALL, iterations=1, batch_size=1, patch=8, checkpoint=path)
    with pytest.raises(OutmaskError, match="another flow, patch, seed differ"):
        train_flow(Ramps(), SMALL, iterations=1, batch_size=1, patch=16, seed=1, checkpoint=path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(OutmaskError, match="no checkpoint of a flow"):
        train_flow(Ramps(), SMALL, iterations=1, batch_size=1, patch=8, checkpoint=path)


def test_bad_options_and_images_are_refused() -> None:
    with pytest.raises(OutmaskError, match="at least 1"):
        train_flow(Ramps(), SMALL, iterations=0)
    with pytest.raises(OutmaskError, match="at least 1"):
        train_flow([], SMALL)
    with pytest.raises(OutmaskError, match="multiple of 4 pixels, got 10"):
        train_flow(Ramps(), SMALL, patch=10)
    with pytest.raises(OutmaskError, match=r"ramp\d.*32 pixels don't fit the image of 40x24"):
        train_flow(Ramps(), SMALL, patch=32)
    with pytest.raises(OutmaskError, match="lower learning_rate"):
        train_flow(Ramps(), SMALL, iterations=20, batch_size=2, patch=8, learning_rate=1e30)


class Labelled:
    """Images whose pixels are 0 where their class is known, else 255; a square of each is not."""

    def __init__(self, boxes: list[tuple[int, int, int, int]], size: tuple[int, int], unknown: str) -> None:
        self.boxes, self.size, self.unknown = boxes, size, unknown

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Sample:
        top, left, height, width = self.boxes[index]
        inside = np.zeros(self.size, bool)
        inside[top : top + height, left : left + width] = True
        label = {"void": VOID, "ignored": IGNORE, "pasted": 0}[self.unknown]
        image = np.where(inside[..., None], np.full(3, 255, np.uint8), np.uint8(0))
        return Sample(image, np.where(inside, label, 3).astype(np.uint8), inside & (self.unknown == "pasted"), "boxed")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*4 * [st.integers(0, 12)]), min_size=1, max_size=3),
    st.sampled_from(["void", "ignored", "pasted"]),
    st.integers(0, 100),
)
def test_crops_show_known_classes_only(boxes: list[tuple[int, int, int, int]], unknown: str, seed: int) -> None:
    images = Labelled(boxes, (16, 20), unknown)
    free = [
        not (images[index].image[top : top + 5, left : left + 5]).any()
        for index in range(len(boxes))
        for top in range(12)
        for left in range(16)
    ]
    if not any(free):
        with pytest.raises(OutmaskError, match="100 images in a row, the last boxed, have no 5x5 pixels"):
            inlier_crops(images, 9, 5, np.random.default_rng(seed))
        return
    if sum(free) < len(free) / 10:
        return  # a hundred draws in a row without room may then be chance
    crops = inlier_crops(images, 9, 5, np.random.default_rng(seed))
    assert crops.shape == (9, 5, 5, 3)
    assert not crops.any()


def test_every_free_place_is_as_likely() -> None:
    """Two rows of a 3x6 image are taken by three 2x2 places on each side of the unknown columns."""
    image = np.arange(18, dtype=np.uint8).reshape(3, 6, 1).repeat(3, 2)
    labels = np.zeros((3, 6), np.uint8)
    labels[0, 3] = VOID
    sample = Sample(image, labels, np.zeros((3, 6), bool), "a")
    crops = inlier_crops([sample], 4000, 2, np.random.default_rng(0))
    corners, counts = np.unique(crops[:, 0, 0, 0], return_counts=True)
    assert corners.tolist() == [0, 1, 4, 6, 7, 8, 9, 10]
    # 500 expected of each, standard deviation 21: five of them.
    assert (np.abs(counts - 500) < 105).all()


def test_broken_images_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    class Damaged(Ramps):
        """Of which the image that is read first can't be read."""

        first: int | None = None

        def __getitem__(self, index: int) -> Sample:
            self.first = index if self.first is None else self.first
            if index == self.first:
                raise OutmaskError(f"ramp{index} is damaged")
            return super().__getitem__(index)

    images = Damaged(100)
    with caplog.at_level(logging.WARNING, "outmask"):
        train_flow(images, SMALL, iterations=1, batch_size=4, patch=8)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [f"ramp{images.first} is damaged"]


@pytest.mark.parametrize("room", [1000, 10_000])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_flow(tmp_path: Path, small_disk: Any, room: int) -> None:
    options: dict[str, Any] = {"batch_size": 4, "patch": 8, "checkpoint": tmp_path / "run/flow.ckpt"}
    flow = train_flow(Ramps(), SMALL, iterations=2, **options)
    flow.save(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert min(len(before["flow.ckpt"]), len(before["flow.safetensors"])) > room
    for write in (lambda: flow.save(tmp_path / "run"), lambda: train_flow(Ramps(), SMALL, iterations=3, **options)):
        with small_disk(room), pytest.raises(OutmaskError, match="can't be written .*make room") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_saved_flow_samples_the_same(tmp_path: Path) -> None:
    flow = train_flow(Ramps(), SMALL, iterations=2, batch_size=2, patch=8)
    flow.save(tmp_path / "flow")
    loaded = PatchFlow.load(tmp_path / "flow")
    assert loaded.config == SMALL
    assert not loaded.training
    one, other = (which.sample(np.random.default_rng(0), (8, 8)) for which in (flow, loaded))
    assert np.array_equal(one, other)


def test_folders_without_a_flow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="holds no flow"):
        PatchFlow.load(tmp_path)
    PatchFlow(SMALL).save(tmp_path)
    for content in ("{", "[]", '{"levels": 3, "steps": 2, "width": 8}', '{"depth": 3}', '{"levels": "two"}'):
        (tmp_path / "flow.json").write_text(content)
        with pytest.raises(OutmaskError, match="can't read the flow"):
            PatchFlow.load(tmp_path)

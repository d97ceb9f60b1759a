"""Mahalanobis distances: their statistics against scikit-learn's, the distances against scipy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from outmask.detectors import Mahalanobis, mahalanobis
from outmask.detectors.detector import Observation
from outmask.errors import OutmaskError
from outmask.types import PixelPrediction

PREDICTION = PixelPrediction(torch.zeros(1, 3, 1, 1))


def fitted(images: list[tuple[NDArray[np.float32], NDArray[np.int64]]], num_classes: int) -> dict[str, Tensor]:
    """Statistics of ``(D, h, w)`` features with ``(h, w)`` labels."""
    maker = Mahalanobis().fitting(num_classes)
    for features, labels in images:
        maker.update(Observation(PREDICTION, (1, 1), torch.from_numpy(features)[None], torch.from_numpy(labels)))
    return maker.compute()


def correlated(count: int, seed: int = 0) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Images of 4 channels with unequal variances, three classes of unequal means, and some pixels of none."""
    rng = np.random.default_rng(seed)
    mixing, centres = rng.normal(size=(4, 4)), 5 * rng.normal(size=(3, 4)) + 20
    images = []
    for _ in range(count):
        labels = rng.choice([0, 1, 2, 254, 255], (9, 11), p=[0.4, 0.3, 0.1, 0.1, 0.1])
        features = rng.normal(size=(9, 11, 4)) @ mixing + np.where(labels[..., None] < 3, centres[labels % 3], 1e3)
        images.append((features.transpose(2, 0, 1).astype(np.float32), labels))
    return images


def known(images: list[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All pixels with a class: ``(n, 4)`` features, ``(n,)`` labels."""
    features = np.concatenate([one.reshape(4, -1).T for one, _ in images]).astype(np.float64)
    labels = np.concatenate([one.ravel() for _, one in images])
    return features[labels < 3], labels[labels < 3]


def test_streamed_statistics_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mahalanobis, "_CHUNK", 17)  # pieces that end within an image
    images = correlated(5)
    statistics = fitted(images, 3)
    features, labels = known(images)
    means = np.stack([features[labels == class_].mean(0) for class_ in range(3)])
    np.testing.assert_allclose(statistics["means"], means, rtol=1e-6)
    oracle = EmpiricalCovariance(assume_centered=True).fit(features - means[labels])
    whitening = statistics["whitening"].double().numpy()
    # float32's rounding, amplified by the condition of the covariance (here 1e2).
    np.testing.assert_allclose(whitening @ whitening.T, oracle.get_precision(), rtol=1e-4, atol=1e-7)


def test_the_distance_is_to_the_nearest_class(linear: Any, pixels: Tensor) -> None:
    rng = np.random.default_rng(0)
    means, root = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    covariance = root @ root.T + np.eye(3)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    statistics = {"means": torch.tensor(means).float(), "whitening": torch.tensor(whitening).float()}
    score = Mahalanobis()(replace(linear, statistics={"mahalanobis": statistics}), pixels)
    points = pixels.double().permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    expected = cdist(points, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(1) ** 2
    assert score.dtype == torch.float32
    np.testing.assert_allclose(score.flatten(), expected, rtol=1e-5)


def test_the_training_set_is_as_far_from_its_classes_as_it_has_dimensions(linear: Any) -> None:
    images = correlated(4)
    statistics = fitted(images, 3)
    features, labels = known(images)
    white = (features - statistics["means"].double().numpy()[labels]) @ statistics["whitening"].double().numpy()
    assert (white**2).sum(1).mean() == pytest.approx(4, rel=1e-4)
    subject = replace(linear, statistics={"mahalanobis": statistics})
    assert Mahalanobis().display_range(subject, 3) == (4, 16)


def test_a_channel_that_never_opens_and_a_class_that_never_occurs_are_left_out(linear: Any, pixels: Tensor) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 8, 8)).astype(np.float32)
    features[1] = 0
    labels = rng.integers(0, 2, (8, 8)) * 2  # classes 0 and 2
    statistics = fitted([(features, labels)], 3)
    assert statistics["means"].shape == (2, 3)
    assert statistics["whitening"].shape == (3, 2)
    subject = replace(linear, statistics={"mahalanobis": statistics})
    assert torch.equal(
        Mahalanobis()(subject, pixels), Mahalanobis()(subject, pixels * torch.tensor([1.0, 0, 1]).view(3, 1, 1))
    )


def test_a_feature_has_the_label_at_its_centre() -> None:
    labels = np.full((12, 12), 255)
    labels[1::3, 1::3] = 0  # the middles of 3 x 3 squares
    rng = np.random.default_rng(0)
    images = [(rng.normal(size=(2, 4, 4)).astype(np.float32), labels)]
    np.testing.assert_allclose(fitted(images, 2)["means"][0], images[0][0].mean((1, 2)), atol=1e-6)


def test_training_images_without_anything_to_learn_are_refused() -> None:
    features = np.ones((2, 4, 4), np.float32)
    with pytest.raises(OutmaskError, match="no pixel of the training images has a class"):
        fitted([(features, np.full((4, 4), 255))], 3)
    with pytest.raises(OutmaskError, match="the same features"):
        fitted([(features, np.zeros((4, 4), np.int64))], 3)

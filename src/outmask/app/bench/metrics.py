"""The metrics against their peers."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from outmask.app.bench.comparison import Comparison, Report, Values, compare, comparison_report
from outmask.errors import OutmaskError
from outmask.metrics import ComponentMetrics, PanopticQuality, PixelMetrics


def metrics() -> Report:
    """Pixel, panoptic and component metrics against scikit-learn, torchmetrics and a plain loop.

    Raises:
        OutmaskError: where a peer is not installed.
    """
    for peer in ("sklearn", "torchmetrics"):
        if importlib.util.find_spec(peer) is None:
            raise OutmaskError(f"{peer} is not installed: pip install outmask[bench]")
    comparisons = [
        *(_pixels(kind, scores, labels) for kind, scores, labels in _pixel_scores()),
        _panoptic(),
        _components(),
    ]
    return comparison_report(comparisons, "in percent points")


_IMAGES, _IMAGE_PIXELS = 50, 2_000_000
"""100 Mpx in images of 2 Mpx."""
_PANOPTIC_SIZE = (1024, 2048)
_MAP_SIZE = (1080, 1920)


def _pixel_scores() -> list[tuple[str, NDArray[np.float32], NDArray[np.uint8]]]:
    """Saturated scores as a mask classifier gives them, and smooth ones: few ties, many values.

    Saturated: known ``-sigmoid(N(9, 1.5))``, anomalies ``-sigmoid(N(3.5, 2.5))``; 2 % anomalies.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random((_IMAGES, _IMAGE_PIXELS), np.float32) < 0.02).astype(np.uint8)
    noise = rng.standard_normal(labels.shape, np.float32)
    logits = np.where(labels == 1, 3.5 + 2.5 * noise, 9 + 1.5 * noise)
    saturated = -1 / (1 + np.exp(-logits))
    return [("saturated", saturated, labels), ("smooth", noise + 2 * labels, labels)]


def _pixels(kind: str, scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> Comparison:
    from sklearn.metrics import average_precision_score, roc_curve

    def ours() -> Values:
        metrics = PixelMetrics()
        for score, label in zip(scores, labels, strict=True):
            metrics.update(score, label)
        values = metrics.compute()
        return {name: values[name] for name in ("AP", "FPR95")}

    def peer() -> Values:
        fpr, tpr, _ = roc_curve(labels.ravel(), scores.ravel(), drop_intermediate=False)
        ap = 100 * average_precision_score(labels.ravel(), scores.ravel())
        return {"AP": ap, "FPR95": 100 * float(fpr[np.argmax(tpr >= 0.95)])}

    name = f"AP and FPR95 of {labels.size / 1e6:g} Mpx, {kind} scores"
    return compare(name, "scikit-learn average_precision_score + roc_curve", ours, peer, repeats=1, ours_per_peer=3)


def _panoptic() -> Comparison:
    """One 1024 x 2048 image of 60 segments, with void in the ground truth.

    The prediction has no void: there torchmetrics follows another rule (it leaves predicted void out of the union).
    """
    from torchmetrics.detection import PanopticQuality as Peer

    (height, width), count, classes = _PANOPTIC_SIZE, 60, 10
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    centres = rng.random((count, 2)) * (height, width)
    nearest = np.full((height, width), np.inf)
    truth = np.zeros((height, width), np.int32)
    for index, (row, column) in enumerate(centres, 1):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        truth = np.where(distance < nearest, np.int32(index), truth)
        nearest = np.minimum(nearest, distance)
    prediction = np.roll(truth, (7, 11), (0, 1))
    truth[:, 900:940] = 0
    class_of = rng.integers(0, classes, count)
    segments = [{"id": index, "category_id": int(class_)} for index, class_ in enumerate(class_of, 1)]
    categories = [{"id": class_, "name": f"class {class_}", "isthing": 1} for class_ in range(classes)]

    def ours() -> Values:
        metric = PanopticQuality(categories)
        metric.update(prediction, segments, truth, segments)
        return {"PQ": metric.compute()["PQ"]}

    def pairs(ids: NDArray[np.int32]) -> torch.Tensor:
        """``(1, H, W, 2)``: category and instance; a category in neither list is void."""
        return torch.from_numpy(np.stack([np.append(classes, class_of)[ids], ids], -1)[None])

    predicted, target = pairs(prediction), pairs(truth)

    def peer() -> Values:
        # Of stuff torchmetrics drops the instance, so all classes are things.
        metric = Peer(things=set(range(classes)), stuffs=set(), allow_unknown_preds_category=True)
        metric.update(predicted, target)
        return {"PQ": 100 * float(metric.compute())}

    return compare(
        f"PQ of one {height}x{width} image with {count} segments",
        "torchmetrics PanopticQuality",
        ours,
        peer,
        repeats=3,
        ours_per_peer=7,
    )


def _components() -> Comparison:
    """A noisy 1080p map: blobs of many sizes, of which hundreds are large enough to count."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.standard_normal(_MAP_SIZE), (0, 0), 4)
    other = cv2.GaussianBlur(rng.standard_normal(_MAP_SIZE), (0, 0), 4)
    label = (noise > np.quantile(noise, 0.8)).astype(np.uint8)
    label[: _MAP_SIZE[0] // 10] = 255
    mask = noise + 0.7 * other > np.quantile(noise, 0.8)

    def ours() -> Values:
        metric = ComponentMetrics("obstacle")
        metric.update(mask, label)
        values = metric.compute()
        return {name: values[name] for name in ("sIoU", "PPV", "F1")}

    return compare(
        f"sIoU, PPV and F1* of one noisy {_MAP_SIZE[0]}x{_MAP_SIZE[1]} map",
        "a loop over the components",
        ours,
        lambda: component_loop(mask, label, smallest=(50, 10)),
        repeats=2,
        ours_per_peer=5,
    )


def component_loop(mask: NDArray[np.bool_], label: NDArray[np.uint8], smallest: tuple[int, int]) -> Values:
    """The obvious way to SegmentMeIfYouCan's component metrics: every component a mask of the whole image.

    Args:
        mask: ``(H, W)`` bool.
        label: ``(H, W)`` uint8 0 known, 1 anomaly, 255 outside.
        smallest: pixels that a predicted and a ground-truth component need at least.
    """
    from scipy.ndimage import label as components

    around = np.ones((3, 3), int)
    predicted, count = components(mask & (label <= 1), around)
    truth, gt_count = components(label == 1, around)
    inside = label <= 1
    for index in range(1, count + 1):
        component = predicted == index
        if component.sum() < smallest[0]:
            predicted[component] = 0
    for index in range(1, gt_count + 1):
        component = truth == index
        if component.sum() < smallest[1]:
            truth[component] = 0
            inside &= ~component
    predicted, truth = predicted[inside], truth[inside]
    siou = []
    for index in np.unique(truth[truth > 0]):
        component = truth == index
        touching = np.unique(predicted[component & (predicted > 0)])
        covered = np.isin(predicted, touching)
        union = covered | component
        siou.append((covered & component).sum() / (union & ~((truth > 0) & ~component)).sum())
    ppv = [(truth[predicted == index] > 0).mean() for index in np.unique(predicted[predicted > 0])]
    f1 = []
    for tau in np.linspace(0.25, 0.75, 11):
        found = np.count_nonzero(np.array(siou) >= tau)
        f1.append(2 * found / (len(siou) + found + np.count_nonzero(np.array(ppv) < tau)))
    return {"sIoU": 100 * float(np.mean(siou)), "PPV": 100 * float(np.mean(ppv)), "F1": 100 * float(np.mean(f1))}

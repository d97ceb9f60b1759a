"""Metrics that stream over images, merge across processes and give percentages."""

from outmask.metrics.pixel import PixelMetrics

__all__ = ["PixelMetrics"]

"""Metrics that stream over images, merge across processes and give percentages."""

from outmask.metrics.components import ComponentMetrics
from outmask.metrics.instances import InstanceAP
from outmask.metrics.panoptic import PanopticQuality
from outmask.metrics.pixel import PixelMetrics
from outmask.metrics.semantic import ClosedSetMetrics, OpenIoU

__all__ = ["ClosedSetMetrics", "ComponentMetrics", "InstanceAP", "OpenIoU", "PanopticQuality", "PixelMetrics"]

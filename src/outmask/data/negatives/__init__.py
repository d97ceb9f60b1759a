"""Objects of no known class, cut from other images and pasted on street scenes as void.

M2F-EAM 3.4 and table 8 (negatives) and Mask2Anomaly's AnomalyMix. A :class:`NegativeSource` gives cut-outs,
:class:`PasteNegatives` pastes them. The papers' settings, before any scaling or cropping of the host:

========================  =============================================================  ===========
row                       source                                                         probability
========================  =============================================================  ===========
M2F-EAM, ADE20K           ``LabelMapObjects(root)``                                      1
M2F-EAM, inlier patches   ``InlierPatches()``                                            1
M2F-EAM, flow             ``FlowSamples(flow)``                                          1
Mask2Anomaly, AnomalyMix  ``CocoInstances(annotations, images_root, minimum_area=0,      0.2
                          joint=True, minimum_side=480, images=300)``
========================  =============================================================  ===========

all of them with ``count=(1, 1)`` and ``relative_size=None``. How many patches an image gets, and how large, M2F-EAM
does not say.
"""

from outmask.data.negatives.coco import STREET_CATEGORIES, CocoInstances, decode_segmentation
from outmask.data.negatives.cutouts import Cutout, NegativeSource
from outmask.data.negatives.label_maps import ADE20K_STREET_IDS, LabelMapObjects
from outmask.data.negatives.objects import FolderObjects, MixedObjects
from outmask.data.negatives.pasting import PasteNegatives, paste
from outmask.data.negatives.patches import FlowSamples, InlierPatches
from outmask.data.negatives.world import WorldObjects

__all__ = [
    "ADE20K_STREET_IDS",
    "STREET_CATEGORIES",
    "CocoInstances",
    "Cutout",
    "FlowSamples",
    "FolderObjects",
    "InlierPatches",
    "LabelMapObjects",
    "MixedObjects",
    "NegativeSource",
    "PasteNegatives",
    "WorldObjects",
    "decode_segmentation",
    "paste",
]

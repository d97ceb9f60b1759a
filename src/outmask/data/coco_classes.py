"""The classes of COCO panoptic (Kirillov et al., CVPR 2019), and those of them that open-set training hides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from outmask.types import Color, Taxonomy

_ROWS: list[tuple[int, str, Color, bool]] = [
    (1, "person", (220, 20, 60), True),
    (2, "bicycle", (119, 11, 32), True),
    (3, "car", (0, 0, 142), True),
    (4, "motorcycle", (0, 0, 230), True),
    (5, "airplane", (106, 0, 228), True),
    (6, "bus", (0, 60, 100), True),
    (7, "train", (0, 80, 100), True),
    (8, "truck", (0, 0, 70), True),
    (9, "boat", (0, 0, 192), True),
    (10, "traffic light", (250, 170, 30), True),
    (11, "fire hydrant", (100, 170, 30), True),
    (13, "stop sign", (220, 220, 0), True),
    (14, "parking meter", (175, 116, 175), True),
    (15, "bench", (250, 0, 30), True),
    (16, "bird", (165, 42, 42), True),
    (17, "cat", (255, 77, 255), True),
    (18, "dog", (0, 226, 252), True),
    (19, "horse", (182, 182, 255), True),
    (20, "sheep", (0, 82, 0), True),
    (21, "cow", (120, 166, 157), True),
    (22, "elephant", (110, 76, 0), True),
    (23, "bear", (174, 57, 255), True),
    (24, "zebra", (199, 100, 0), True),
    (25, "giraffe", (72, 0, 118), True),
    (27, "backpack", (255, 179, 240), True),
    (28, "umbrella", (0, 125, 92), True),
    (31, "handbag", (209, 0, 151), True),
    (32, "tie", (188, 208, 182), True),
    (33, "suitcase", (0, 220, 176), True),
    (34, "frisbee", (255, 99, 164), True),
    (35, "skis", (92, 0, 73), True),
    (36, "snowboard", (133, 129, 255), True),
    (37, "sports ball", (78, 180, 255), True),
    (38, "kite", (0, 228, 0), True),
    (39, "baseball bat", (174, 255, 243), True),
    (40, "baseball glove", (45, 89, 255), True),
    (41, "skateboard", (134, 134, 103), True),
    (42, "surfboard", (145, 148, 174), True),
    (43, "tennis racket", (255, 208, 186), True),
    (44, "bottle", (197, 226, 255), True),
    (46, "wine glass", (171, 134, 1), True),
    (47, "cup", (109, 63, 54), True),
    (48, "fork", (207, 138, 255), True),
    (49, "knife", (151, 0, 95), True),
    (50, "spoon", (9, 80, 61), True),
    (51, "bowl", (84, 105, 51), True),
    (52, "banana", (74, 65, 105), True),
    (53, "apple", (166, 196, 102), True),
    (54, "sandwich", (208, 195, 210), True),
    (55, "orange", (255, 109, 65), True),
    (56, "broccoli", (0, 143, 149), True),
    (57, "carrot", (179, 0, 194), True),
    (58, "hot dog", (209, 99, 106), True),
    (59, "pizza", (5, 121, 0), True),
    (60, "donut", (227, 255, 205), True),
    (61, "cake", (147, 186, 208), True),
    (62, "chair", (153, 69, 1), True),
    (63, "couch", (3, 95, 161), True),
    (64, "potted plant", (163, 255, 0), True),
    (65, "bed", (119, 0, 170), True),
    (67, "dining table", (0, 182, 199), True),
    (70, "toilet", (0, 165, 120), True),
    (72, "tv", (183, 130, 88), True),
    (73, "laptop", (95, 32, 0), True),
    (74, "mouse", (130, 114, 135), True),
    (75, "remote", (110, 129, 133), True),
    (76, "keyboard", (166, 74, 118), True),
    (77, "cell phone", (219, 142, 185), True),
    (78, "microwave", (79, 210, 114), True),
    (79, "oven", (178, 90, 62), True),
    (80, "toaster", (65, 70, 15), True),
    (81, "sink", (127, 167, 115), True),
    (82, "refrigerator", (59, 105, 106), True),
    (84, "book", (142, 108, 45), True),
    (85, "clock", (196, 172, 0), True),
    (86, "vase", (95, 54, 80), True),
    (87, "scissors", (128, 76, 255), True),
    (88, "teddy bear", (201, 57, 1), True),
    (89, "hair drier", (246, 0, 122), True),
    (90, "toothbrush", (191, 162, 208), True),
    (92, "banner", (255, 255, 128), False),
    (93, "blanket", (147, 211, 203), False),
    (95, "bridge", (150, 100, 100), False),
    (100, "cardboard", (168, 171, 172), False),
    (107, "counter", (146, 112, 198), False),
    (109, "curtain", (210, 170, 100), False),
    (112, "door-stuff", (92, 136, 89), False),
    (118, "floor-wood", (218, 88, 184), False),
    (119, "flower", (241, 129, 0), False),
    (122, "fruit", (217, 17, 255), False),
    (125, "gravel", (124, 74, 181), False),
    (128, "house", (70, 70, 70), False),
    (130, "light", (255, 228, 255), False),
    (133, "mirror-stuff", (154, 208, 0), False),
    (138, "net", (193, 0, 92), False),
    (141, "pillow", (76, 91, 113), False),
    (144, "platform", (255, 180, 195), False),
    (145, "playingfield", (106, 154, 176), False),
    (147, "railroad", (230, 150, 140), False),
    (148, "river", (60, 143, 255), False),
    (149, "road", (128, 64, 128), False),
    (151, "roof", (92, 82, 55), False),
    (154, "sand", (254, 212, 124), False),
    (155, "sea", (73, 77, 174), False),
    (156, "shelf", (255, 160, 98), False),
    (159, "snow", (255, 255, 255), False),
    (161, "stairs", (104, 84, 109), False),
    (166, "tent", (169, 164, 131), False),
    (168, "towel", (225, 199, 255), False),
    (171, "wall-brick", (137, 54, 74), False),
    (175, "wall-stone", (135, 158, 223), False),
    (176, "wall-tile", (7, 246, 231), False),
    (177, "wall-wood", (107, 255, 200), False),
    (178, "water-other", (58, 41, 149), False),
    (180, "window-blind", (183, 121, 142), False),
    (181, "window-other", (255, 73, 97), False),
    (184, "tree-merged", (107, 142, 35), False),
    (185, "fence-merged", (190, 153, 153), False),
    (186, "ceiling-merged", (146, 139, 141), False),
    (187, "sky-other-merged", (70, 130, 180), False),
    (188, "cabinet-merged", (134, 199, 156), False),
    (189, "table-merged", (209, 226, 140), False),
    (190, "floor-other-merged", (96, 36, 108), False),
    (191, "pavement-merged", (96, 96, 96), False),
    (192, "mountain-merged", (64, 170, 64), False),
    (193, "grass-merged", (152, 251, 152), False),
    (194, "dirt-merged", (208, 229, 228), False),
    (195, "paper-merged", (206, 186, 171), False),
    (196, "food-other-merged", (152, 161, 64), False),
    (197, "building-other-merged", (116, 112, 0), False),
    (198, "rock-merged", (0, 114, 143), False),
    (199, "wall-other-merged", (102, 102, 156), False),
    (200, "rug-merged", (250, 141, 255), False),
]
"""Category id, name, colour, whether it is a thing (panopticapi, ``panoptic_coco_categories.json``)."""

_FIVE = ("car", "cow", "pizza", "toilet")
_TEN = (*_FIVE, "boat", "tie", "zebra", "stop sign")
_TWENTY = (*_TEN, "dining table", "banana", "bicycle", "cake", "sink", "cat", "keyboard", "bear")

UNKNOWN_CLASSES: Mapping[int, tuple[str, ...]] = MappingProxyType({20: _TWENTY, 10: _TEN, 5: _FIVE})
"""Names of the unknown thing classes at K = 20, 10, 5 % (EOPSN, ``datasets/unknown``): each holds the smaller ones."""


def _taxonomy(unknown: tuple[str, ...]) -> Taxonomy:
    ids, names, colors, things = zip(*(row for row in _ROWS if row[1] not in unknown), strict=True)
    return Taxonomy(names=names, colors=colors, things=things, ground=("road", "pavement-merged"), evaluation_ids=ids)


COCO_PANOPTIC = _taxonomy(())
"""The 133 classes, 80 of them things; evaluation ids are COCO's category ids. Id 0 is void."""

COCO_OPEN_PANOPTIC: Mapping[int, Taxonomy] = MappingProxyType(
    {percent: _taxonomy(names) for percent, names in UNKNOWN_CLASSES.items()}
)
"""What is left of them to a model that must not know the unknown classes, by K."""

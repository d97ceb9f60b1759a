"""UNO's negative class (Delic et al. 2024): pasted objects are one more class to recognise, not void."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from outmask.errors import OutmaskError

if TYPE_CHECKING:
    from outmask.data.labels import Target


def with_negative_class(target: Target, num_classes: int) -> Target:
    """The target of a model with K + 2 classes: known 0 ... K-1, *negative* K, and *no object* last.

    Each pasted object, or all of them where objects are not told apart, becomes one mask of class K, matched and
    weighed like any other.

    Args:
        target: in which pasted pixels are void.
        num_classes: K, the known classes only; model and criterion have K + 1 classes beside *no object*.

    Returns:
        the target with these masks appended; the very target where nothing is pasted, or all of it ignored.

    Raises:
        OutmaskError: where the target holds a class id that is not below K.
    """
    if (target.class_ids >= num_classes).any():
        raise OutmaskError(
            f"the negative class takes id {num_classes}, so known classes must be from 0 to {num_classes - 1}, "
            f"got {target.class_ids.tolist()}: give num_classes without the negative class"
        )
    pasted = target.outliers & ~target.ignore
    pasted = pasted[pasted.flatten(1).any(1)]
    if not len(pasted):
        return target
    class_ids = torch.cat([target.class_ids, target.class_ids.new_full((len(pasted),), num_classes)])
    return replace(target, class_ids=class_ids, masks=torch.cat([target.masks, pasted]))

"""The street that the demo shows and that attention is drawn on: one of the synthetic world's."""

from __future__ import annotations

from outmask.data.world import World, WorldScene


def draw_scene(size: tuple[int, int] = (512, 1024)) -> WorldScene:
    """Logs on a street of a town that no model is trained on, chosen for its looks.

    Args:
        size: ``(H, W)``.
    """
    return World("t6", "test").scene(90, size)

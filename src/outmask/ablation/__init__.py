"""Ablations: a grid of recipes and seeds, trained and measured piece by piece."""

from outmask.ablation.grid import Grid, read_grid
from outmask.ablation.work import Ablation

__all__ = ["Ablation", "Grid", "read_grid"]

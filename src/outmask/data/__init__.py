"""Labelled street scenes, the objects pasted on them as negatives, and what happens to both before training."""

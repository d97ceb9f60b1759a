"""Recipes, the training step and the run, on Lightning's loop."""

"""Plugins of Hydra."""

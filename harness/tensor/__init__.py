"""Tensor files and number formats on the command line: `python -m harness.tensor`."""

"""Tensor files and number formats on the command line: `python -m harness.tensor`."""

import logging

# matplotlib finds a place for its cache by itself where the home cannot be written; that is no news to a user.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

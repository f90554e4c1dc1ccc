"""Sizes that the files of a model cannot fill: refused before anything is made of such a size.

transformers builds what a config says. One of 10^19 layers would keep it busy without end, and one of 10^15 tokens would
fill the memory, before it saw that the files hold something else.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from harness.errors import ModelError
from harness.models.architecture import auto_class
from harness.models.checkpoints.folder_files import CONFIG, json_object
from harness.models.checkpoints.prequantized import FLOATS, settings_of, stored_tensors

LAYERS = re.compile(r"(num|n)_(\w+_)?layers?|(en|de)coder_layers|depth")
"""What configurations call the number of their layers."""
SLACK = 4
"""How many times as many values as its files a model may have: of a smaller lack `check_complete` gives the names."""


def check_sizes(folder: Path, *, trust_remote_code: bool) -> None:
    """Check the sizes that config.json says against the headers of the weights; a damaged folder is left to those who load it.

    Raises:
        ModelError: The model would have more layers than the files have tensors, or several times as many values.
    """
    stored = stored_tensors(folder)
    for key, layers in layer_counts(json_object(folder / CONFIG)):
        if stored and layers > len(stored):
            raise ModelError(
                f"every layer must have a tensor in the files, but {CONFIG} has {key} {layers} and the weights {len(stored)} tensors in "
                f"{folder}; correct the config"
            )
    # Codes may be packed, at most eight to a byte, and bitsandbytes may store them as floats (bnb_4bit_quant_storage).
    packs_floats = settings_of(folder) is not None
    held = sum(
        t.numel if t.dtype in FLOATS and not packs_floats else 8 * t.nbytes for t in stored.values()
    )
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        values = num_values(AutoConfig.from_pretrained(folder, **options), trust_remote_code)
    except Exception:  # whatever the libraries raise, loading raises it again and explains it
        return
    if held and values > SLACK * held:
        raise ModelError(
            f"the values of the model must be in its files, but those of its {CONFIG} are {values:,} and the weights hold at most "
            f"{held:,} in {folder}; correct the config, or download the weights again"
        )


def layer_counts(node: Any) -> Iterator[tuple[str, int]]:
    """Yield the numbers of layers that a configuration says, its parts included."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from layer_counts(value)
        elif type(value) is int and LAYERS.fullmatch(key):
            yield key, value


def num_values(config: PreTrainedConfig, trust_remote_code: bool = False) -> int:
    """Return how many parameters a model of a configuration has, tied ones counted once; it takes no memory."""
    with torch.device("meta"), no_init_weights():
        module: PreTrainedModel = auto_class(config).from_config(
            config, trust_remote_code=trust_remote_code
        )
        # Files hold one copy of the block that all hybrid layers of Zamba2 share.
        module.tie_weights()
    return sum(parameter.numel() for parameter in module.parameters())


def check_memory(size: int, what: str, device: torch.device) -> None:
    """Raise ModelError if so many bytes are more than a device has at all.

    Args:
        size: What would be made [byte].
        what: What it is, and the keys that say so.
        device: Where.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > total:
        raise ModelError(
            f"{what} must fit into the memory of {device}, {total / 1e9:,.1f} GB, got {size / 1e9:,.1f} GB; take a smaller one"
        )

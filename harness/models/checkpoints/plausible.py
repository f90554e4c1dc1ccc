"""Check the sizes in a configuration before anything is built from it.

transformers builds whatever a config says. With 10^19 layers it would run for ever, with 10^15
tokens it would fill the memory, before it saw that the files hold something else.
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
from harness.models.checkpoints.settings import settings_of
from harness.models.checkpoints.stored_tensors import FLOAT_TYPES, stored_tensors

LAYERS = re.compile(r"(num|n)_(\w+_)?layers?|(en|de)coder_layers|depth")
"""Names of the number of layers in configurations."""
SLACK = 4
"""Most values of a model, in multiples of the values in its files; `check_complete` reports smaller
gaps."""


def check_config_sizes(folder: Path, *, trust_remote_code: bool) -> None:
    """Check the sizes in config.json against the headers of the weights.

    A damaged folder passes: whatever loads it says what is wrong.

    Raises:
        ModelError: The model would have more layers than the files have tensors, or many times the
            values.
    """
    stored = stored_tensors(folder)
    for key, layers in layer_counts(json_object(folder / CONFIG)):
        if stored and layers > len(stored):
            raise ModelError(
                f"every layer must have a tensor in the files, but {CONFIG} has {key} {layers} and "
                f"the weights {len(stored)} tensors in {folder}; correct the config"
            )
    # A byte holds at most eight codes. bitsandbytes may store codes as floats
    # (bnb_4bit_quant_storage).
    is_quantized = settings_of(folder) is not None
    held = sum(
        t.numel if t.dtype in FLOAT_TYPES and not is_quantized else 8 * t.nbytes
        for t in stored.values()
    )
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        values = num_values(AutoConfig.from_pretrained(folder, **options), trust_remote_code)
    except Exception:  # whatever the libraries raise, loading raises it again and explains it
        return
    if held and values > SLACK * held:
        raise ModelError(
            f"the values of the model must be in its files, but those of its {CONFIG} are "
            f"{values:,} and the weights hold at most {held:,} in {folder}; correct the config, or "
            "download the weights again"
        )


def layer_counts(node: Any) -> Iterator[tuple[str, int]]:
    """Yield key and value of each number of layers in a configuration and its parts."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from layer_counts(value)
        elif type(value) is int and LAYERS.fullmatch(key):
            yield key, value


def num_values(config: PreTrainedConfig, trust_remote_code: bool = False) -> int:
    """Return the number of parameters of a model; tied ones count once. It takes no memory."""
    with torch.device("meta"), no_init_weights():
        module: PreTrainedModel = auto_class(config).from_config(
            config, trust_remote_code=trust_remote_code
        )
        # Tie: files hold one copy of the block that all hybrid layers of Zamba2 share.
        module.tie_weights()
    return sum(parameter.numel() for parameter in module.parameters())


def check_memory(size: int, what: str, device: torch.device) -> None:
    """Raise ModelError if something is larger than the whole memory of a device.

    Args:
        size: Its size [byte].
        what: What it is, with the keys that say so.
        device: The device.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > total:
        raise ModelError(
            f"{what} must fit into the memory of {device}, {total / 1e9:,.1f} GB, got "
            f"{size / 1e9:,.1f} GB; take a smaller one"
        )

"""A checkpoint folder without its weights: tokenizer, configuration and ends of text, for an engine that has loaded the weights.

The module lies on the meta device, which has shapes and no memory, so whatever asks a loaded model for its tokenizer, its longest
sequence or its end tokens gets the answer that the loaded model would give. Nothing can be computed with it.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from harness.errors import ModelError
from harness.models.architecture import auto_class, read_config
from harness.models.checkpoint import UNLOADABLE, folder_fingerprint
from harness.models.source import Dtype, LoadedModel

META = torch.device("meta")


def load_weightless(folder: Path, *, dtype: Dtype, trust_remote_code: bool = False) -> LoadedModel:
    """Return what a folder says of its model.

    Raises:
        ModelError: The folder is not a whole model, or transformers cannot read it.
    """
    fingerprint = folder_fingerprint(folder)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
        config = read_config(folder, **options)
        with META:
            module: PreTrainedModel = auto_class(config).from_config(
                config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
            )
        if (folder / "generation_config.json").is_file():
            module.generation_config = GenerationConfig.from_pretrained(folder)
    except UNLOADABLE as reason:
        raise ModelError(
            f"the model folder must be one that transformers reads, got {folder}: {reason}"
        ) from reason
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        name=folder.name,
        dtype=getattr(torch, dtype),
        device=META,
        fingerprint=fingerprint,
        origin="weights in the engine",
    )

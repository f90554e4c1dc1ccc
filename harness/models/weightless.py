"""A checkpoint folder without its weights: tokenizer, configuration and ends of text, for an engine that has loaded the weights.

The module lies on the meta device, which has shapes and no memory, so whatever asks a loaded model for its tokenizer, its longest
sequence or its end tokens gets the answer that the loaded model would give. Nothing can be computed with it.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
)

from harness.errors import ModelError
from harness.models.checkpoint import UNLOADABLE, folder_fingerprint, load_tokenizer
from harness.models.source import Dtype, LoadedModel

META = torch.device("meta")


def load_weightless(folder: Path, *, dtype: Dtype, trust_remote_code: bool = False) -> LoadedModel:
    """Return what a folder says of its model.

    Raises:
        ModelError: The folder is not a whole model, or transformers cannot read it.
    """
    fingerprint = folder_fingerprint(folder)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    try:
        config: Any = AutoConfig.from_pretrained(folder, **options)
        with META:
            module: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
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

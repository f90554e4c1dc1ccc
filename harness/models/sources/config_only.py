"""A checkpoint folder without its weights: tokenizer, configuration and end tokens.

It is for an engine in another process, which holds the weights. The module is on the meta device:
it has shapes and no memory. Tokenizer, maximum length and end tokens equal the loaded model's.
Nothing can be computed with it.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from harness.errors import ModelError
from harness.models.architecture import auto_class, read_config
from harness.models.checkpoints.folder import UNLOADABLE, folder_fingerprint, load_tokenizer
from harness.models.checkpoints.loading_report import check_adapter, check_loading, error_line
from harness.models.checkpoints.loading_warnings import loading_warnings
from harness.models.checkpoints.settings import settings_of
from harness.models.loaded import Dtype, LoadedModel

META = torch.device("meta")


def load_weightless(folder: Path, *, dtype: Dtype, trust_remote_code: bool = False) -> LoadedModel:
    """Return the model of a folder, on the meta device.

    Raises:
        ModelError: The folder is not a whole model, or transformers cannot read it.
    """
    fingerprint = folder_fingerprint(folder)
    check_adapter(folder)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    try:
        config = read_config(folder, **options)
        parts: list[str] = []
        if settings_of(folder) is None:
            module, parts = _load_shapes(folder, config, getattr(torch, dtype), **options)
        else:
            with META:
                module = auto_class(config).from_config(
                    config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
                )
        if (folder / "generation_config.json").is_file():
            module.generation_config = GenerationConfig.from_pretrained(folder)
    except UNLOADABLE as reason:
        raise ModelError(
            f"the model folder must be one that transformers reads, got {folder}: "
            f"{error_line(reason)}"
        ) from reason
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        name=folder.name,
        dtype=getattr(torch, dtype),
        device=META,
        fingerprint=fingerprint,
        origin="weights in the engine",
        warnings=tuple(loading_warnings(folder, module, parts)),
    )


def _load_shapes(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Load names and shapes of an unquantized folder; return model and tensors of other parts."""
    found: Any = auto_class(config).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        device_map={"": META},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `check_loading` names them
        **options,
    )
    module: PreTrainedModel = found[0]
    parts = check_loading(found[1], module, folder)
    module.tie_weights()  # on the meta device, transformers ties nothing that is stored twice
    return module, parts

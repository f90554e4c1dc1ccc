"""GGUF files of llama.cpp, converted once to float safetensors.

transformers 5 keeps GGUF blocks packed unless told to dequantize, and to dequantize takes longer
than any short run. So each file is converted once, into a cache folder that is named by the hash of
the file:

1. transformers dequantizes the file in float32.
2. `gguf_check` compares the result with the file, tensor by tensor and setting by setting.
3. Each tensor is stored in the smallest type that holds its values, so the copy is exact. It is
   rounded once, to `model.dtype`, when the copy is loaded.
4. A lock guards the conversion, and the folder gets its name when it is whole: a conversion that
   was killed never passes for a model.

The weights of a quantized GGUF file are dequantized codes, not an unquantized baseline. Every
record says so (`LoadedModel.origin`), and a record without a recipe has the bits of the file
(`LoadedModel.dequantized`).
"""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from harness.errors import ModelError
from harness.models.checkpoints.folder import UNLOADABLE, silence_transformers
from harness.models.checkpoints.loading_report import (
    check_complete,
    check_shapes,
    check_taken,
    error_line,
)
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.checkpoints.stored_tensors import FLOAT_TYPES
from harness.models.loaded import LoadedModel
from harness.models.sources.cache_folder import BFLOAT16_COPY, CACHE, EXACT_COPY, cache_folder
from harness.models.sources.gguf_check import check_and_complete
from harness.models.sources.gguf_header import WholeReader, check_header
from harness.output.atomic import new_folder
from harness.output.lock import locked

log = logging.getLogger(__name__)

NARROW = (torch.bfloat16, torch.float16)
"""Types that may hold the values of a float32 tensor exactly."""


def converted_folder(file: Path, sha256: str, conversion: str = EXACT_COPY) -> Path:
    """Return the folder of a file's copy; the first call converts the file."""
    folder = cache_folder() / f"gguf-{conversion}-{sha256[:16]}"
    if folder.is_dir():  # a whole copy, also in a cache that cannot be written: take no lock
        return folder
    busy = f"another process converts {file.name}; waiting for it"
    with locked(folder.with_suffix(".lock"), CACHE, of=folder, busy=busy):
        if not folder.is_dir():
            log.info("converting %s to safetensors, once (about 20 s)", file.name)
            with new_folder(folder, CACHE) as whole:
                _convert(file, whole, conversion)
    return folder


def _convert(file: Path, target: Path, conversion: str) -> None:
    silence_transformers()
    try:
        reader = WholeReader(file)
        if reader.get_field("general.architecture") is None:
            raise ValueError("it does not name an architecture")
        check_header(reader, file)
        found: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_shapes` names them
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        module, loading = found
        check_complete(loading, file)
        check_shapes(loading, file)
        check_taken(loading, module, file)
        check_and_complete(reader, module)
    except UNLOADABLE as reason:
        raise ModelError(
            f"model.path must be a GGUF file that transformers can dequantize, got {file}: "
            f"{error_line(reason)}"
        ) from reason
    for parameter in module.parameters():
        exact = parameter.data
        parameter.data = exact.bfloat16() if conversion == BFLOAT16_COPY else _narrow(exact)
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _narrow(exact: torch.Tensor) -> torch.Tensor:
    """Return a float32 tensor in the smallest type that holds its values exactly."""
    for dtype in NARROW:
        if torch.equal(exact.to(dtype).float(), exact):
            return exact.to(dtype)
    return exact


def origin_of(file: Path) -> str:
    """Return the types of a file's tensors in words: `dequantized GGUF (211 x Q4_1, 61 x F32)`."""
    types = [tensor.tensor_type.name for tensor in GGUFReader(file).tensors]
    how = "dequantized" if set(types) - FLOAT_TYPES else "float"
    kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(types).most_common())
    return f"{how} GGUF ({kinds})"


def file_facts(file: Path, loaded: LoadedModel) -> Prequantized | None:
    """Return how a file is quantized; None if all its tensors are float ones."""
    tensors = GGUFReader(file).tensors
    codes = [tensor for tensor in tensors if tensor.tensor_type.name not in FLOAT_TYPES]
    if not codes:
        return None
    kinds = Counter(tensor.tensor_type.name for tensor in codes)
    return Prequantized(
        method="gguf",
        scheme=", ".join(kind for kind, _ in kinds.most_common()),
        kind="fake-quant",
        num_parameters=loaded.num_parameters,
        num_quantized=sum(int(tensor.n_elements) for tensor in codes),
        packed_bits=8 * sum(int(tensor.n_bytes) for tensor in codes),
        file_bytes=sum(int(tensor.n_bytes) for tensor in tensors),
        stored_bytes=stored_bytes(loaded.module),
    )

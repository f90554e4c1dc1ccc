"""Prompts to time: random token ids, or a text cut into pieces of one length.

What the ids are changes no time of a dense model; a text is for those who want to see that, and for models whose work depends on
what they read, such as mixtures of experts.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from harness.data.source import DataSource
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.tasks.base import hash_token_ids
from harness.tasks.throughput.subject import Size
from harness.tasks.windows import disjoint_windows

Kind = Literal["random", "text"]
PROBE = (32_768, 64)
"""Vocabulary and length of the draw that tells one generator from another."""


def facts(kind: Kind, data: DataSource, seed: int) -> dict[str, Any]:
    """Return what identifies the prompts before a model is there."""
    if kind == "text":
        text = data.text()
        return {"name": text.name, "text_sha256": text.sha256, "revision": text.revision}
    vocabulary, length = PROBE
    probe = draw(vocabulary, Size(batch=1, prompt=length, new=0), seed)
    return {"name": "random tokens", "probe_sha256": hash_token_ids(probe.tolist())}


def prompts_of(kind: Kind, data: DataSource, loaded: LoadedModel, size: Size, seed: int) -> Tensor:
    """Return token ids `[B, S]`.

    Raises:
        DataError: A sequence is longer than the model was made for, or the text is too short.
    """
    if not loaded.fits(size.prompt + size.new):
        raise DataError(
            f"task.prompt_tokens + task.new_tokens must be at most the {loaded.max_length} tokens {loaded.name} was made "
            f"for, got {size.prompt} + {size.new}"
        )
    if kind == "random":
        return draw(loaded.vocab_size, size, seed)
    text = data.text()
    try:
        return disjoint_windows(text, loaded, size.prompt, size.batch).ids
    except DataError as reason:
        raise DataError(
            f"task.prompts=text must give task.batch_size = {size.batch} pieces of task.prompt_tokens = {size.prompt} tokens, but "
            f"{reason}; use task.prompts=random, or another text"
        ) from reason


def draw(vocabulary: int, size: Size, seed: int) -> Tensor:
    """Return random token ids `[B, S]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (size.batch, size.prompt), generator=generator)

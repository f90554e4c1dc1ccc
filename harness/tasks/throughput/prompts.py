"""Prompts of timed requests: random token ids, or pieces of a text of one length.

The time of a dense model does not depend on the ids. A text is for models whose work does, such as
mixtures of experts, and for checking that it does not.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from harness.data.source import DataSource
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.tokens import hash_token_ids
from harness.tasks.throughput.subject import Size
from harness.tasks.windows import disjoint_windows

Kind = Literal["random", "text"]
DRAW_PROBE = (32_768, 64)
"""Vocabulary and length of a draw whose hash identifies the random generator."""


def facts(kind: Kind, data: DataSource, seed: int) -> dict[str, Any]:
    """Return what identifies the prompts; needs no model."""
    if kind == "text":
        text = data.text()
        return {"name": text.name, "text_sha256": text.sha256, "revision": text.revision}
    vocabulary, length = DRAW_PROBE
    probe = draw(vocabulary, Size(batch=1, prompt=length, new=0), seed)
    return {"name": "random tokens", "probe_sha256": hash_token_ids(probe.tolist())}


def prompts_of(kind: Kind, data: DataSource, loaded: LoadedModel, size: Size, seed: int) -> Tensor:
    """Return token ids `[B, S]`.

    Raises:
        DataError: A sequence is longer than the model was made for, or the text is too short.
    """
    if not loaded.fits(size.prompt + size.new):
        raise DataError(
            f"task.prompt_tokens + task.new_tokens must be at most the {loaded.max_length} tokens "
            f"{loaded.name} was made for, got {size.prompt} + {size.new}"
        )
    if kind == "random":
        return draw(loaded.vocab_size, size, seed)
    text = data.text()
    try:
        return disjoint_windows(text, loaded, size.prompt, size.batch).ids
    except DataError as reason:
        raise DataError(
            f"task.prompts=text must give task.batch_size = {size.batch} pieces of "
            f"task.prompt_tokens = {size.prompt} tokens, but {reason}; "
            "use task.prompts=random, or another text"
        ) from reason


def draw(vocabulary: int, size: Size, seed: int) -> Tensor:
    """Return random token ids `[B, S]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (size.batch, size.prompt), generator=generator)

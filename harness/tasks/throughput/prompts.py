"""Prompts of timed requests: random token ids, or pieces of a text of one length.

The time of a dense model does not depend on the token ids. Use a text for models whose time does
(mixtures of experts), or to check that it does not.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from harness.data.source import DataSource
from harness.data.token_hash import hash_token_ids
from harness.engines.base import Engine
from harness.errors import DataError
from harness.tasks.throughput.times import Size
from harness.tasks.windows import disjoint_windows

PromptKind = Literal["random", "text"]
Prompts = tuple[tuple[int, ...], ...]
"""Token ids of B prompts of S tokens."""
DRAW_PROBE = (32_768, 64)
"""Vocabulary and length of a draw whose hash identifies the random generator."""


def facts(kind: PromptKind, data: DataSource, seed: int) -> dict[str, Any]:
    """Return what identifies the prompts; needs no model."""
    if kind == "text":
        text = data.text()
        return {"name": text.name, "text_sha256": text.sha256, "revision": text.revision}
    vocabulary, length = DRAW_PROBE
    probe = draw(vocabulary, Size(batch=1, prompt=length, new=0), seed)
    return {"name": "random tokens", "probe_sha256": hash_token_ids(probe)}


def prompts_of(
    kind: PromptKind, data: DataSource, engine: Engine, size: Size, seed: int
) -> Prompts:
    """Return B prompts of S token ids.

    Raises:
        DataError: A sequence is longer than the model was made for, or the text is too short.
    """
    if not engine.fits(size.prompt + size.new):
        raise DataError(
            f"task.prompt_tokens + task.new_tokens must be at most the {engine.max_length} tokens "
            f"{engine.name} was made for, got {size.prompt} + {size.new}"
        )
    if kind == "random":
        return draw(engine.vocab_size, size, seed)
    text = data.text()
    try:
        windows = disjoint_windows(text, engine, size.prompt, size.batch)
    except DataError as reason:
        raise DataError(
            f"task.prompts=text must give task.batch_size = {size.batch} pieces of "
            f"task.prompt_tokens = {size.prompt} tokens, but {reason}; "
            "use task.prompts=random, or another text"
        ) from reason
    return _as_tuples(windows.ids.tolist())


def draw(vocabulary: int, size: Size, seed: int) -> Prompts:
    """Return random token ids."""
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(vocabulary, (size.batch, size.prompt), generator=generator)
    return _as_tuples(ids_BS.tolist())


def _as_tuples(ids_BS: Sequence[Sequence[int]]) -> Prompts:
    return tuple(tuple(ids) for ids in ids_BS)

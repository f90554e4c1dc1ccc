"""llama.cpp's protocol: the second half of each window (tools/perplexity/perplexity.cpp).

    window    = ids[i*C : (i+1)*C],  i < floor(N / C)    C = n_ctx, 512 by default; N >= 2C
    window[0] = BOS              if the vocabulary adds one; the token it replaces is lost
    scored    = window[C/2+1 : C]    255 of 512 tokens, each with 257 to 511 before it
    PPL       = exp(mean of -ln p)

The text is the file wiki.test.raw as it is, not the joined rows. The loaded model's
tokenizer makes the tokens; llama.cpp makes the same ones where both have the same vocabulary.

Behind the figure, llama.cpp prints one standard error as `+/-`: PPL * sqrt(variance / (n - 1)). It
assumes that tokens are independent, and is too small. The record has it for comparison only.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from harness.data.source import Text
from harness.engines.base import Engine
from harness.engines.requests import Array
from harness.errors import DataError
from harness.results.record import Metric, Unit
from harness.tasks.perplexity.metrics import TOO_LARGE, exp
from harness.tasks.segments import Segment, Segments
from harness.tasks.windows import Bos, DocumentIds, disjoint_windows


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfWindows:
    """Disjoint windows; the second half of each is scored."""

    task_name: ClassVar[str] = "perplexity_llama_cpp"
    headline: ClassVar[str] = "perplexity"
    item: ClassVar[Literal["window"]] = "window"
    least_window: ClassVar[int] = 3
    takes_bos: ClassVar[bool] = False

    def cut(
        self,
        text: Text,
        engine: Engine,
        window: int,
        limit: int | None,
        bos: Bos | None,  # noqa: ARG002 - the vocabulary decides
    ) -> Segments:
        """Cut the file into windows; the tail is dropped.

        Raises:
            DataError: The text has fewer than two windows, or a window does not fit the model.
        """
        file = text
        if text.file is not None:
            file = replace(text, text=text.file, starts=text.file_starts)
        digest = hashlib.sha256(file.text.encode()).hexdigest()
        first = window // 2 + 1
        file = replace(file, sha256=digest)
        found = disjoint_windows(file, engine, window, limit, first)
        if found.num_tokens < 2 * window:
            raise DataError(
                f"the text {text.name} must hold two windows of {window} tokens, as llama.cpp "
                f"demands, got {found.num_tokens} tokens; lower task.window"
            )
        bos_id = engine.tokenizer.bos_id
        begins = engine.tokenizer.adds_bos
        if begins and bos_id is not None:
            # As llama.cpp does: the BOS replaces a token instead of preceding it.
            found.ids[:, 0] = bos_id
        count = "all" if limit is None else f"first-{limit}"
        return Segments(
            segments=tuple(
                Segment(tuple(ids), first, index) for index, ids in enumerate(found.ids.tolist())
            ),
            num_samples=len(found.ids),
            documents=tuple(found.scored_documents),
            scored_bytes=found.scored_bytes,
            scored_words=found.scored_words,
            protocol=(
                f"llama.cpp|file|n_ctx={window}|scored=second-half|windows={count}"
                f"|bos={'every-window' if begins else 'none'}"
            ),
            facts={
                "file_sha256": digest,
                "num_tokens": found.num_tokens,
                "token_ids_sha256": found.ids_sha256,
            },
        )

    def further(
        self,
        samples: Sequence[Array],
        documents: Sequence[DocumentIds],  # noqa: ARG002 - llama.cpp knows no documents
    ) -> tuple[Metric, ...]:
        """Return the standard error that llama.cpp prints behind `+/-`."""
        nll = np.concatenate(samples).astype(np.float64)
        if len(nll) < 2:
            return ()
        error = exp(float(nll.mean())) * math.sqrt(nll.var() / (len(nll) - 1))
        how = "one standard error as llama.cpp prints it, tokens taken as independent: too small"
        return (
            Metric(
                name="perplexity/llama_cpp_error",
                value=error if math.isfinite(error) else None,
                unit=Unit.ONE,
                n=len(nll),
                n_of="token",
                higher_is_better=None,
                note=how if math.isfinite(error) else TOO_LARGE,
            ),
        )

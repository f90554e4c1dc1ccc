r"""The protocol of the GPTQ and AWQ papers: disjoint windows of rows joined by a blank line.

    nll = sum of -ln p(x_t | x_1 .. x_{t-1})     over t = 2..L of every window (not the first token)
    PPL = exp(nll / (n * (L - 1)))

Frantar et al., "GPTQ" (2022), and their published code compute the loss in the model's own dtype,
which rounds each window's bf16 loss by up to 0.8 %. Here it is float64 of float32 logits.

The context of the first w tokens of a window does not depend on L. So one pass also gives the
perplexity of the first w tokens of every window. It covers a share w / L of the text, and differs
from a run with windows of w.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.data.source import Text
from harness.engines.base import Engine
from harness.engines.requests import Array
from harness.results.record import Metric
from harness.tasks.perplexity.metrics import mean_over, perplexity_figure
from harness.tasks.segments import Segment, Segments
from harness.tasks.windows import Bos, DocumentIds, disjoint_windows, window_line

USUAL_WINDOWS = (512, 1024, 2048, 4096)
"""Lengths of the windows behind published figures [token]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DisjointWindows:
    """Disjoint windows; all tokens but the first of each are scored."""

    task_name: ClassVar[str] = "perplexity"
    headline: ClassVar[str] = "perplexity"
    item: ClassVar[Literal["window"]] = "window"
    least_window: ClassVar[int] = 2
    takes_bos: ClassVar[bool] = True

    def cut(
        self, text: Text, engine: Engine, window: int, limit: int | None, bos: Bos | None
    ) -> Segments:
        """Cut the text into windows; the tail is dropped."""
        found = disjoint_windows(text, engine, window, limit, bos=bos)
        return Segments(
            segments=tuple(
                Segment(tuple(ids), 1, index) for index, ids in enumerate(found.ids.tolist())
            ),
            num_samples=len(found.ids),
            documents=tuple(found.scored_documents),
            scored_bytes=found.scored_bytes,
            scored_words=found.scored_words,
            protocol=window_line(window, limit, engine, bos),
            facts={"num_tokens": found.num_tokens, "token_ids_sha256": found.ids_sha256},
        )

    def further(
        self, samples: Sequence[Array], documents: Sequence[DocumentIds]
    ) -> tuple[Metric, ...]:
        """Return the perplexity of the first tokens of every window."""
        window = len(samples[0]) + 1
        return tuple(
            perplexity_figure(
                mean_over(
                    [nll[: size - 1] for nll in samples], [of[: size - 1] for of in documents]
                ),
                name=f"perplexity/first_{size}",
                note=(
                    f"of the first {size} tokens of every window of {window}, not of the text in "
                    f"windows of {size}"
                ),
            )
            for size in USUAL_WINDOWS
            if size < window
        )

r"""Perplexity of a text in disjoint windows, the protocol of the GPTQ and AWQ papers with the arithmetic done right.

    ids    = tokenizer(text)                        one call: a BOS, if the tokenizer adds one, only in the first window
    window = ids[i*L : (i+1)*L],  i < floor(N / L)  the tail of N mod L tokens is dropped
    nll    = sum of -ln p(x_t | x_1 .. x_{t-1})     for t = 2..L of every window: its first token is not scored
    PPL    = exp(nll / (n * (L - 1)))

Log-probabilities are float32 from float32 logits and are summed in float64. Frantar et al., "GPTQ" (2022), and their
published code take the loss in the model's own type, which rounds each window's bf16 loss by up to 0.8 %.

Perplexity per token depends on the tokenizer; bits per byte does not. Both count the same scored text: that of every
window but its first token.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness import stats
from harness.data.source import DataSource, Text
from harness.errors import InvalidResult
from harness.models.head import Scorer, scorer
from harness.models.source import LoadedModel
from harness.progress import bar
from harness.results.record import Metric, SampleScore, TaskInfo, Unit
from harness.tasks.base import TaskResult
from harness.tasks.windows import Windows, adds_bos, disjoint_windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Perplexity in windows; see the module docstring."""

    data: DataSource
    window: int = 2048
    """Tokens a window."""
    limit_windows: int | None = None
    """Score the first so many windows; None is all."""

    def __post_init__(self) -> None:
        """Refuse sizes that score nothing."""
        if self.window < 2:
            raise ValueError(f"window must be >= 2 tokens, got {self.window}")
        if self.limit_windows is not None and self.limit_windows < 1:
            raise ValueError(f"limit_windows must be >= 1 or null, got {self.limit_windows}")

    @property
    def name(self) -> str:
        """`perplexity`."""
        return "perplexity"

    @property
    def version(self) -> int:
        """First version."""
        return 1

    @property
    def headline(self) -> str:
        """Perplexity per token."""
        return "perplexity"

    @property
    def seeds(self) -> dict[str, int]:
        """None: nothing is drawn."""
        return {}

    def data_facts(self) -> dict[str, Any]:
        """Return name and hash of the text."""
        text = self.data.text()
        return {"name": text.name, "text_sha256": text.sha256, "revision": text.revision}

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Score every window."""
        text = self.data.text()
        windows = disjoint_windows(text, loaded, self.window, self.limit_windows)
        samples = []
        with scorer(loaded) as halves, bar("perplexity", len(windows.ids)) as progress:
            for index, ids in enumerate(windows.ids):
                nll = token_nll(halves, ids)
                if not np.isfinite(nll).all():
                    raise InvalidResult(
                        f"every log-probability must be finite, got {nll[~np.isfinite(nll)][0]} in window "
                        f"{index}; the recipe destroys this model, or the weights are damaged"
                    )
                samples.append(
                    SampleScore(
                        id=f"{text.name}/window/{index}",
                        cluster=str(index),
                        scores={"nll": float(nll.sum(dtype=np.float64)), "num_tokens": len(nll)},
                        token_nll=tuple(nll.tolist()),
                    )
                )
                progress.advance(tokens=self.window)
        return TaskResult(
            info=self._info(text, windows, loaded),
            metrics=_metrics(samples, windows),
            samples=tuple(samples),
            warnings=text.warnings,
        )

    def _info(self, text: Text, windows: Windows, loaded: LoadedModel) -> TaskInfo:
        limit = "all" if self.limit_windows is None else f"first-{self.limit_windows}"
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=(
                rf"{text.name}|join=\n\n|L={self.window}|stride=L|windows={limit}"
                f"|bos={'first-window' if adds_bos(loaded) else 'none'}|loss=fp32|acc=fp64"
            ),
            data=self.data_facts()
            | {
                "num_rows": text.num_rows,
                "num_tokens": windows.num_tokens,
                "token_ids_sha256": windows.ids_sha256,
                "num_windows": len(windows.ids),
                "scored_bytes": windows.scored_bytes,
                "scored_words": windows.scored_words,
            },
        )


def token_nll(halves: Scorer, ids_L: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return -ln p of `ids_L[1:]`, each given what is before it, float32 `[L - 1]` [nat]."""
    ids_L = ids_L.to(halves.loaded.device)
    nll = halves.nll(halves.hidden(ids_L[None])[0, :-1], ids_L[1:])
    found: np.ndarray[Any, np.dtype[np.float32]] = nll.cpu().numpy()
    return found


def _metrics(samples: list[SampleScore], windows: Windows) -> tuple[Metric, ...]:
    """Return the figures per token, word and byte; their intervals rest on the windows' means."""
    means = [sample.scores["nll"] / sample.scores["num_tokens"] for sample in samples]
    num_tokens = sum(int(sample.scores["num_tokens"]) for sample in samples)
    nll = math.fsum(sample.scores["nll"] for sample in samples)
    interval = stats.mean_interval(means)
    note = None if interval else f"no interval from fewer than {stats.MIN_CLUSTERS} windows"

    def metric(name: str, scale: float, unit: Unit, n: int, n_of: str) -> Metric:
        """Return the mean NLL a token times `scale`; of perplexities (no unit), its exponential."""
        finish = math.exp if unit is Unit.ONE else float
        return Metric(
            name=name,
            value=finish(nll / num_tokens * scale),
            unit=unit,
            n=n,
            n_of=n_of,
            ci95=interval and (finish(interval.low * scale), finish(interval.high * scale)),
            higher_is_better=False,
            note=note,
        )

    words, size = windows.scored_words, windows.scored_bytes
    return (
        metric("perplexity", 1.0, Unit.ONE, num_tokens, "token"),
        metric("nll", 1.0, Unit.NAT_PER_TOKEN, num_tokens, "token"),
        metric("word_perplexity", num_tokens / words, Unit.ONE, words, "word"),
        metric("byte_perplexity", num_tokens / size, Unit.ONE, size, "byte"),
        metric("bits_per_byte", num_tokens / size / math.log(2), Unit.BIT_PER_BYTE, size, "byte"),
    )

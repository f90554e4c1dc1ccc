r"""Task `parity`: a real backend beside the fake-quantized model of the same recipe.

A fake-quantized model measures what a format costs in accuracy. The result holds for a backend only
if its kernels compute the same function of the same codes, up to the order of sums and the rounding
of operands. The task compares both forms in two ways:

- Layer by layer, the proof: each real layer gets the activations that its fake-quantized
  counterpart got in the first window. `layer_difference` is the largest difference of all layers;
  the backend's tolerance is for this number.
- End to end, which shows how far the model amplifies the differences of its layers:

    d_t  = ln p_real(x_t) - ln p_fake(x_t)                 x_t the token that follows
    logprob_difference = mean |d_t|,  kl = KL(fake || real),  top1_agreement = mean [same argmax]
    float_kl_fake = KL(float || fake),  float_kl_real = KL(float || real)      effect of the format

The statistics are those of `harness.tasks.divergence.statistics`: equal logits give exactly 0 and
1. The last `decode` tokens of each window run one at a time on a cache, because many kernels take
another path for one row. Every window runs alone. `harness.engines.paired` is the protocol of an
engine that can compare two forms.

`reference` keeps in main memory the float32 logits of the fake-quantized and of the unquantized
model, 2 x windows x (L - 1) x vocabulary x 4 bytes: with the defaults 2 x 480 MB for 151,936 tokens
and 2 x 155 MB for 49,152. It also keeps activations and outputs of the quantized layers for one
window, 0.2 GB for Qwen3-1.7B in bfloat16.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from harness.data.source import DataSource, Text
from harness.data.token_hash import hash_token_ids
from harness.display.progress import bar
from harness.engines.base import Engine, Kind
from harness.engines.paired import Calls, KeptDistributions, PairedEngine
from harness.engines.requests import Score
from harness.errors import DataError, ModelError, UnsupportedEngine, check_bounds
from harness.results.record import BaselineInfo, Compute, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import pair_warnings
from harness.tasks.parity.statistics import Beside, parity_metrics, parity_samples, verdict
from harness.tasks.windows import (
    Bos,
    DocumentIds,
    Ids,
    check_length,
    disjoint_windows,
    window_facts,
    window_protocol,
    window_requests,
)

MOST_KEPT_BYTES = 2**29
"""Largest size of the float32 logits that are kept for one form of the model [byte]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Token sequences, and what identifies them."""

    name: str
    """Name of the text, or `random`."""
    ids: Ids
    """int64 `[n, L]`."""
    clusters: DocumentIds
    """The independent unit of each scored token, `[n, L - 1]`: its document, or its window."""
    cluster: str
    """The word for a cluster: `document`, or `window` for random tokens."""
    facts: dict[str, Any]
    protocol: str
    warnings: tuple[str, ...] = ()

    def requests(self) -> list[Score]:
        """Return a request for each sequence; its first token is not scored."""
        return window_requests(self.ids)


class Reference(NamedTuple):
    """What is kept of the fake-quantized and of the unquantized model, for `run_beside`."""

    prompts: Prompts
    fake: tuple[KeptDistributions, ...]
    """Distributions of the fake-quantized model, one entry for each window."""
    unquantized: tuple[KeptDistributions, ...]
    """Distributions of the unquantized model, one entry for each window."""
    calls: Calls
    """Calls of the quantized linear layers of the fake-quantized model in the first window."""
    baseline: BaselineInfo
    """The unquantized model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """Distance of a real backend from the fake-quantized model; see the module docstring."""

    name: ClassVar[str] = "parity"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = False
    asks: ClassVar[tuple[Kind, ...]] = ("compare",)

    data: DataSource
    """Where the text comes from."""
    prompts: Literal["text", "random"] = "text"
    """Windows of the text of `data`, or random token ids."""
    window: int = 80
    """Tokens of each window."""
    limit_windows: int = 10
    """Number of windows to compare, from the first."""
    decode: int = 8
    """Number of tokens at the end of a window that run one at a time."""
    seed: int = 0
    """Seed of random token ids."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None leaves it to the tokenizer. See `windows`."""

    def __post_init__(self) -> None:
        """Check the bounds of fields, and that the prompt has a scored token."""
        check_bounds(self, window=2, limit_windows=1)  # the first token of a window is not scored
        if self.bos is not None and self.prompts == "random":
            raise ValueError(f"bos must be null for random prompts, got {self.bos}")
        if not 0 <= self.decode <= self.window - 2:
            raise ValueError(
                f"decode must be >= 0 and leave one of the {self.window - 1} scored tokens to the "
                f"prompt, got {self.decode}"
            )

    @property
    def seeds(self) -> dict[str, int]:
        """The seed that draws random prompts."""
        return {"task.seed": self.seed} if self.prompts == "random" else {}

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text, or the draw of random tokens."""
        if self.prompts == "random":
            return {"name": "random tokens", "seed": self.seed}
        return self.data.text().facts()

    def reference(self, engine: Engine) -> Reference:
        """Return the distributions of the fake-quantized and of the unquantized model.

        Raises:
            UnsupportedEngine: The engine cannot compare two forms of a model.
            DataError: The logits would take too much memory, or the prompts do not fit the model.
            ModelError: No recipe has changed the model.
        """
        prompts = self._prompts(engine)
        requests = prompts.requests()
        _check_memory(prompts.ids, _paired(engine).vocab_size)
        base = engine.unquantized(self.name)
        if base.is_itself:
            raise ModelError(
                f"a recipe must have changed {engine.name} to be compared with its real form, got "
                "the weights as they were loaded; choose a recipe with quant"
            )
        calls = _paired(engine).recorded(requests[0], self.decode)
        return Reference(
            prompts=prompts,
            fake=tuple(self._kept(engine, requests, "fake")),
            unquantized=tuple(self._kept(base.engine, requests, "unquantized")),
            calls=calls,
            baseline=base.info,
        )

    def run_beside(
        self,
        engine: Engine,
        reference: Reference,
        tolerance: Mapping[str, float],
        compute: Compute | None = None,
    ) -> TaskResult:
        """Compare the real model with what `reference` returned.

        Raises:
            InvalidResult: A log-probability of a model or an output of a layer is not finite.
        """
        prompts = reference.prompts
        real = self._kept(engine, prompts.requests(), "real")
        forms = zip(real, reference.fake, reference.unquantized, strict=True)
        beside = Beside.stack([Beside.of(*window) for window in forms])
        differences = _paired(engine).layer_differences(reference.calls)
        dtype = _paired(engine).dtype
        judged, failure = verdict(differences, dtype, tolerance.get(dtype), compute)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=(
                    f"{prompts.protocol}|decode={self.decode}|baseline=fake-quant|kl=fake-to-real"
                ),
                data=prompts.facts,
            ),
            metrics=(*parity_metrics(beside, prompts.clusters, prompts.cluster), *judged),
            samples=parity_samples(prompts.name, beside, prompts.clusters, self.decode),
            baseline=reference.baseline,
            warnings=(
                *prompts.warnings,
                *pair_warnings(beside.real_to_float, prompts.ids),
                *failure,
            ),
        )

    def _prompts(self, engine: Engine) -> Prompts:
        if self.prompts == "random":
            return self._random(engine)
        if _paired(engine).weights == "random":
            raise DataError(
                "task.prompts must be random for a model of random weights, got text; "
                "set task.prompts=random"
            )
        return self._from_text(self.data.text(), engine)

    def _from_text(self, text: Text, engine: Engine) -> Prompts:
        windows = disjoint_windows(text, engine, self.window, self.limit_windows, bos=self.bos)
        return Prompts(
            name=text.name,
            ids=windows.ids,
            clusters=windows.scored_documents,
            cluster="document",
            facts=window_facts(text, windows),
            protocol=window_protocol(text, self.window, self.limit_windows, engine, self.bos),
            warnings=text.warnings,
        )

    def _random(self, engine: Engine) -> Prompts:
        check_length(self.window, engine)
        generator = torch.Generator().manual_seed(self.seed)
        shape = self.limit_windows, self.window
        ids_NL = torch.randint(_paired(engine).vocab_size, shape, generator=generator).numpy()
        facts = {"num_windows": len(ids_NL), "token_ids_sha256": hash_token_ids(ids_NL.tolist())}
        return Prompts(
            name="random",
            ids=ids_NL,
            clusters=np.repeat(np.arange(len(ids_NL))[:, None], self.window - 1, axis=1),
            cluster="window",
            facts=self.data_facts() | facts,
            protocol=(
                f"random-tokens|seed={self.seed}|L={self.window}|windows={self.limit_windows}"
                "|log-probs=fp64|means=fp64"
            ),
        )

    def _kept(
        self, engine: Engine, requests: list[Score], title: str
    ) -> Iterator[KeptDistributions]:
        """Yield the distributions of each window."""
        with bar(f"{self.name}, {title}", len(requests)) as progress:
            for _, kept in _paired(engine).kept(requests, self.decode):
                yield kept
                progress.advance(tokens=self.window)


def _paired(engine: Engine) -> PairedEngine:
    """Return an engine as one that compares two forms of a model.

    Raises:
        UnsupportedEngine: It cannot.
    """
    if not isinstance(engine, PairedEngine):
        raise UnsupportedEngine(
            f"engine must be one that keeps a model's answers for parity, got {engine.label}; "
            "leave engine out"
        )
    return engine


def _check_memory(ids_NL: Ids, vocabulary: int) -> None:
    """Raise DataError for logits that are too large to be kept."""
    positions = ids_NL[:, 1:].size
    if (size := 4 * positions * vocabulary) > MOST_KEPT_BYTES:
        raise DataError(
            f"the logits of one model must take at most {MOST_KEPT_BYTES / 1e6:.0f} MB, "
            f"got {size / 1e6:.0f} MB for {positions} positions of {vocabulary} tokens; "
            "lower task.window or task.limit_windows"
        )

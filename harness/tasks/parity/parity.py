r"""Parity: what a real backend computes, beside the fake-quantized model of the same recipe, on the same prompts.

A fake-quantized model says what a format costs in accuracy. That holds for the kernels of a backend only if they compute the
same function of the same codes, up to the order of sums and the rounding of what they multiply. Two views:

- Layer by layer (`parity_layers`), on the inputs that the fake layers got in the first window: `layer_difference`, the worst of them,
  is what the backend's tolerance is about. This is the proof.
- End to end, for the size of what is left once layers with rounded inputs have amplified it:

    d_t  = ln p_real(x_t) - ln p_fake(x_t)                 x_t the token that follows
    logprob_difference = mean |d_t|,  kl = KL(fake || real),  top1_agreement = mean [argmax = argmax]
    float_kl_fake = KL(float || fake),  float_kl_real = KL(float || real)      for scale: what the format itself does

Statistics are those of `divergence_statistics`: equal logits give exactly 0 and 1. The last `decode` tokens of each window run
one at a time on a cache, because many kernels take another path for one row.

Every window runs alone. `reference` keeps in main memory the float32 logits of the fake-quantized and of the float model,
2 x windows x (L - 1) x vocabulary x 4 bytes, with the defaults 2 x 480 MB at 151,936 tokens and 2 x 155 MB at 49,152; and
inputs and outputs of the quantized layers for one window, 0.2 GB of Qwen3-1.7B in bfloat16.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.data.source import DataSource, Text
from harness.display.progress import bar
from harness.engines.local.decodable import cache_argument
from harness.engines.local.split_model import split
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.results.record import BaselineInfo, Compute, TaskInfo
from harness.tasks import baselines
from harness.tasks.base import TaskResult, hash_token_ids
from harness.tasks.divergence.divergence import (
    check_sizes,
    pair_warnings,
    window_facts,
    window_protocol,
)
from harness.tasks.divergence.statistics import TokenPairs, compare_logits
from harness.tasks.parity.layers import Calls, layer_differences, recorded
from harness.tasks.parity.statistics import parity_metrics, stack, verdict, window_samples
from harness.tasks.windows import Bos, DocumentIds, check_length, disjoint_windows

MOST_KEPT_BYTES = 2**29
"""Largest size of the logits that are kept of one model [byte]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Token sequences, and what makes them the same again."""

    name: str
    ids: Tensor
    """int64 `[n, L]`."""
    clusters: DocumentIds
    """What is independent, for each scored token, `[n, L - 1]`: its document, or its window of random tokens."""
    cluster: str
    """What a cluster is, such as `document`."""
    facts: dict[str, Any]
    protocol: str
    warnings: tuple[str, ...] = ()


class Reference(NamedTuple):
    """What the fake-quantized and the float model say, for `run_beside`."""

    prompts: Prompts
    fake: tuple[Tensor, ...]
    """Float32 logits `[L - 1, V]` of each window, in main memory."""
    exact: tuple[Tensor, ...]
    """Those of the float model."""
    calls: Calls
    """Inputs and outputs of the quantized linear layers of the fake-quantized model in the first window."""
    baseline: BaselineInfo
    """What the float model is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """Distance of a real backend to the fake path; see the module docstring."""

    name: ClassVar[str] = "parity"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = False
    is_timed: ClassVar[bool] = False

    data: DataSource
    """Where the text comes from."""
    prompts: Literal["text", "random"] = "text"
    """Windows of the text of `data`, or random token ids."""
    window: int = 80
    """Tokens a window."""
    limit_windows: int = 10
    """Compare on so many windows."""
    decode: int = 8
    """The last so many tokens of a window run one at a time."""
    seed: int = 0
    """Seed of random token ids."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None is the tokenizer's choice. See `windows`."""

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to compare."""
        check_sizes(self.window, self.limit_windows)
        if self.bos is not None and self.prompts == "random":
            raise ValueError(f"bos must be null for random prompts, got {self.bos}")
        if not 0 <= self.decode <= self.window - 2:
            raise ValueError(
                f"decode must be >= 0 and leave one of the {self.window - 1} scored tokens to the prompt, got {self.decode}"
            )

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of random prompts."""
        return {"task.seed": self.seed} if self.prompts == "random" else {}

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text, or how random tokens are drawn."""
        if self.prompts == "random":
            return {"name": "random tokens", "seed": self.seed}
        return self.data.text().facts()

    def reference(self, loaded: LoadedModel) -> Reference:
        """Return the logits of the fake-quantized model, and of the float model it came from.

        Raises:
            DataError: The logits would take too much memory, or the prompts do not fit the model.
        """
        prompts = self._prompts(loaded)
        _check_memory(prompts.ids, loaded)
        base = baselines.own_float(loaded)
        with torch.inference_mode(), recorded(loaded) as calls:
            _window_logits(loaded, prompts.ids[0, :-1].to(loaded.device), self.decode)
        with split(loaded):
            fake = tuple(x.cpu() for x in self._logits(loaded, prompts, "fake"))
            with base.within():
                exact = tuple(x.cpu() for x in self._logits(loaded, prompts, "float"))
        return Reference(prompts, fake, exact, calls, base.info)

    def run_beside(
        self,
        loaded: LoadedModel,
        reference: Reference,
        tolerance: Mapping[str, float],
        compute: Compute | None = None,
    ) -> TaskResult:
        """Compare the real model with what `reference` returned.

        Raises:
            InvalidResult: A log-probability of some model or an output of a layer is not finite.
        """
        prompts = reference.prompts
        with split(loaded):
            real = self._logits(loaded, prompts, "real")
            windows = [
                _compare(q, p, exact, ids_L[1:])
                for q, p, exact, ids_L in zip(
                    real, reference.fake, reference.exact, prompts.ids, strict=True
                )
            ]
        beside = stack(windows)
        dtype = str(loaded.dtype).removeprefix("torch.")
        with torch.inference_mode():
            differences = layer_differences(loaded, reference.calls)
        judged, failure = verdict(differences, dtype, tolerance.get(dtype), compute)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=f"{prompts.protocol}|decode={self.decode}|baseline=fake-quant|kl=fake-to-real",
                data=prompts.facts,
            ),
            metrics=(*parity_metrics(beside, prompts.clusters, prompts.cluster), *judged),
            samples=window_samples(prompts.name, beside, prompts.clusters, self.decode),
            baseline=reference.baseline,
            warnings=(
                *prompts.warnings,
                *pair_warnings(beside.real_to_float, prompts.ids),
                *failure,
            ),
        )

    def _prompts(self, loaded: LoadedModel) -> Prompts:
        if self.prompts == "random":
            return self._random(loaded)
        if loaded.weights == "random":
            raise DataError(
                "task.prompts must be random for a model of random weights, got text; set task.prompts=random"
            )
        return self._of_text(self.data.text(), loaded)

    def _of_text(self, text: Text, loaded: LoadedModel) -> Prompts:
        windows = disjoint_windows(text, loaded, self.window, self.limit_windows, bos=self.bos)
        return Prompts(
            name=text.name,
            ids=windows.ids,
            clusters=windows.scored_documents,
            cluster="document",
            facts=window_facts(text, windows),
            protocol=window_protocol(text, self.window, self.limit_windows, loaded, self.bos),
            warnings=text.warnings,
        )

    def _random(self, loaded: LoadedModel) -> Prompts:
        check_length(self.window, loaded)
        generator = torch.Generator().manual_seed(self.seed)
        shape = self.limit_windows, self.window
        ids_NL = torch.randint(_vocabulary(loaded), shape, generator=generator)
        facts = {"num_windows": len(ids_NL), "token_ids_sha256": hash_token_ids(ids_NL.tolist())}
        return Prompts(
            name="random",
            ids=ids_NL,
            clusters=np.repeat(np.arange(len(ids_NL))[:, None], self.window - 1, axis=1),
            cluster="window",
            facts=self.data_facts() | facts,
            protocol=(
                f"random-tokens|seed={self.seed}|L={self.window}|windows={self.limit_windows}|log-probs=fp64|means=fp64"
            ),
        )

    def _logits(self, loaded: LoadedModel, prompts: Prompts, which: str) -> Iterator[Tensor]:
        """Yield the float32 logits `[L - 1, V]` of the scored positions of each window."""
        with bar(f"{self.name}, {which}", len(prompts.ids)) as progress:
            for ids_L in prompts.ids.to(loaded.device):
                yield _window_logits(loaded, ids_L[:-1], self.decode)
                progress.advance(tokens=len(ids_L))


def _window_logits(loaded: LoadedModel, ids_T: Tensor, decode: int) -> Tensor:
    """Return logits `[T, V]`, the last `decode` of them made one token at a time on a cache; float32 inside `split`."""
    first = len(ids_T) - decode
    output = loaded.module(ids_T[None, :first], use_cache=decode > 0)
    parts = [output.logits[0]]
    name = cache_argument(loaded.module) if decode else ""
    for place in range(first, len(ids_T)):
        token_11, cache = ids_T[None, place : place + 1], getattr(output, name)
        output = loaded.module(token_11, use_cache=True, **{name: cache})
        parts.append(output.logits[0])
    return torch.cat(parts)


def _compare(
    real_TV: Tensor, fake_TV: Tensor, exact_TV: Tensor, targets_T: Tensor
) -> tuple[TokenPairs, ...]:
    """Return the statistics of one window, in the order of `Beside`."""
    fake, exact, targets = (x.to(real_TV.device) for x in (fake_TV, exact_TV, targets_T))
    both = (real_TV, fake), (fake, exact), (real_TV, exact)
    return tuple(compare_logits(candidate, base, targets) for candidate, base in both)


def _vocabulary(loaded: LoadedModel) -> int:
    return int(loaded.module.config.get_text_config().vocab_size)


def _check_memory(ids_NL: Tensor, loaded: LoadedModel) -> None:
    """Raise DataError for logits that are too many to be kept."""
    positions, vocabulary = ids_NL[:, 1:].numel(), _vocabulary(loaded)
    if (size := 4 * positions * vocabulary) > MOST_KEPT_BYTES:
        raise DataError(
            f"the logits of one model must take at most {MOST_KEPT_BYTES / 1e6:.0f} MB, got {size / 1e6:.0f} MB for "
            f"{positions} positions of {vocabulary} tokens; lower task.window or task.limit_windows"
        )

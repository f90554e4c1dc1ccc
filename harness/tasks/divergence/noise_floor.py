"""Noise floor: the float model against itself under changes that should not matter (an A/A comparison).

- `batch`: two windows at a time instead of one. Matrix products of another shape sum in another order.
- `attention`: the plain ("eager") attention kernel instead of the fused one, or the other way round.
- `dtype`: the same weights in float32, which is what the arithmetic of a 16-bit model costs. A float32 model is rounded to
  bfloat16 instead, weights and arithmetic: what it costs to run the same model in 16 bits.

Each is measured as `divergence` measures a recipe, with the model as it is in the baseline's place. A difference between
recipes that is not above these figures says nothing about the recipes. A variant that cannot run on a model is left out
with a warning that says why.

A checkpoint that came quantized is no float model: `model.baseline` is measured in its place, and the record says so.

The float model is never written to: kernels are changed back, and parameters of another type are put in the place of the
model's own, which come back, the very objects. Peak memory is that of `divergence` and, during `dtype`, a second copy of
the parameters in the other type; the plain kernel holds all scores of a layer, heads x window^2, a few times over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.data.source import DataSource
from harness.engines.local.split_model import SplitModel, split
from harness.errors import ConfigError, ModelError
from harness.models.architecture import attention
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks import baselines
from harness.tasks.base import TaskResult
from harness.tasks.baselines import Baseline, Become
from harness.tasks.divergence.divergence import (
    Side,
    baseline,
    check_sizes,
    pair_warnings,
    run_windows,
    side,
    side_by_side,
    window_facts,
    window_protocol,
    window_scores,
)
from harness.tasks.divergence.statistics import TokenPairs, divergence_metrics
from harness.tasks.windows import Bos, DocumentIds, Windows, disjoint_windows, document_words

SHOWN = ("kl_mean", "kl_p99", "kl_max", "same_top", "delta_p_rms", "ln_ppl_ratio")
"""The statistics that are given for each variant."""
BATCH = 2
CANNOT_RUN = (ImportError, RuntimeError, ValueError)
"""What torch and transformers raise for a kernel or type that a model or machine does not have."""


class Variant(NamedTuple):
    """A change that should not matter."""

    name: str
    change: str
    """What is different, in a word."""
    side: Callable[[SplitModel], Side]
    """The model with the change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFloor:
    """Distance of the float model to itself; see the module docstring."""

    name: ClassVar[str] = "noise_floor"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    seeds: ClassVar[Mapping[str, int]] = {}

    data: DataSource
    """Where the text comes from."""
    window: int = 2048
    """Tokens a window."""
    limit_windows: int | None = None
    """Compare on the first so many windows; None is all."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None is the tokenizer's choice. See `windows`."""

    def __post_init__(self) -> None:
        """Refuse sizes that score nothing."""
        check_sizes(self.window, self.limit_windows)

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text."""
        return self.data.text().facts()

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Compare every variant with the model as it is.

        Raises:
            ConfigError: A recipe has changed the model.
            UnsupportedRecipe: The model came quantized, and `model.baseline` does not say what it was made of.
            ModelError: No variant can run.
        """
        if changed := len(loaded.swaps) + len(loaded.hooks):
            raise ConfigError(
                f"quant must be none for {self.name}, which compares the float model with itself, got a recipe "
                f"that changed {changed} weights or inputs; leave quant out"
            )
        is_float = not loaded.came_quantized
        base = baselines.itself(loaded) if is_float else baselines.find(loaded, self.name)
        loaded = base.loaded
        text = self.data.text()
        windows = disjoint_windows(text, loaded, self.window, self.limit_windows, bos=self.bos)
        variants = tuple(_variants(loaded, windows))
        found, warnings = _measure(loaded, windows, variants)
        changes = "|".join(f"{variant.name}={variant.change}" for variant in variants)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=f"{window_protocol(text, self.window, self.limit_windows, loaded, self.bos)}|{changes}",
                data=window_facts(text, windows),
            ),
            metrics=tuple(
                metric
                for variant in variants
                if variant.name in found
                for metric in _metrics(variant, found[variant.name], windows.scored_documents)
            ),
            samples=_samples(text.name, found, windows.scored_documents),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *pair_warnings(next(iter(found.values())), windows.ids),
                *_of_second(base),
                *warnings,
            ),
        )


def _of_second(base: Baseline) -> tuple[str, ...]:
    """Say whose floor it is, if not that of the model in the record."""
    if base.is_itself:
        return ()
    return (
        f"the noise floor is that of the float model {base.info.name}; the checkpoint was not run",
    )


def _measure(
    loaded: LoadedModel, windows: Windows, variants: tuple[Variant, ...]
) -> tuple[dict[str, TokenPairs], list[str]]:
    """Return the statistics of each variant that can run, and why the others cannot."""
    found: dict[str, TokenPairs] = {}
    warnings = []
    for variant in variants:
        # A split of its own for each: it holds a float32 copy of the head it was used with.
        with split(loaded) as halves:
            title = f"noise floor, {variant.name}"
            base = baseline(halves, windows, nullcontext)
            try:
                changed = variant.side(halves)
                found[variant.name] = side_by_side(halves, windows, changed, base, title)
            except CANNOT_RUN as reason:
                warnings.append(
                    f"{variant.name}={variant.change} was not measured, because this model or machine cannot "
                    f"run it: {type(reason).__name__}: {reason}"
                )
    if not found:
        raise ModelError(
            f"some variant must run to know the noise floor, got none: {'; '.join(warnings)}"
        )
    return found, warnings


def _variants(loaded: LoadedModel, windows: Windows) -> Iterator[Variant]:
    def paired(halves: SplitModel) -> Side:
        return side(halves, run_in_pairs(halves, windows.ids))

    kernel = "sdpa" if loaded.attention == "eager" else "eager"

    def other_kernel(halves: SplitModel) -> Side:
        become = partial(attention, loaded.module, kernel)
        return side(halves, run_windows(halves, windows.ids, become))

    dtype = torch.bfloat16 if loaded.dtype is torch.float32 else torch.float32

    def other_dtype(halves: SplitModel) -> Side:
        become = cast(loaded, dtype)
        return side(halves, run_windows(halves, windows.ids, become), become)

    # The largest first: a batch of two often changes nothing at all.
    yield Variant("dtype", str(dtype).removeprefix("torch."), other_dtype)
    yield Variant("attention", kernel, other_kernel)
    yield Variant("batch", str(BATCH), paired)


def run_in_pairs(halves: SplitModel, ids_NL: Tensor) -> Iterator[Tensor]:
    """Yield the hidden states `[L, H]` of each window, run beside the next one; the last of an odd number beside the first."""
    count = len(ids_NL)
    for start in range(0, count, BATCH):
        states_BLH = halves.hidden(ids_NL[[start, (start + 1) % count]])
        yield from states_BLH[: count - start]


def cast(loaded: LoadedModel, dtype: torch.dtype) -> Become:
    """Return what lets the model have its parameters in another type inside a block.

    Those that the model keeps in a type of their own, and buffers such as rotary frequencies, stay as they are.
    """
    places = [
        (owner, name, parameter)
        for owner in loaded.module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if parameter.dtype is loaded.dtype
    ]
    # By identity, so that tied parameters stay tied.
    others = {
        id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        for _, _, parameter in places
    }

    @contextmanager
    def become() -> Iterator[None]:
        for owner, name, parameter in places:
            setattr(owner, name, others[id(parameter)])
        try:
            yield
        finally:
            for owner, name, parameter in places:
                setattr(owner, name, parameter)

    return become


def _metrics(variant: Variant, pairs: TokenPairs, documents: DocumentIds) -> list[Metric]:
    by_name = {metric.name: metric for metric in divergence_metrics(pairs, documents)}
    change = f"{variant.name} {variant.change}"
    return [
        by_name[name].model_copy(
            update={
                "name": f"{variant.name}/{name}",
                "note": "; ".join(filter(None, (change, by_name[name].note))),
            }
        )
        for name in SHOWN
    ]


def _samples(
    text_name: str, found: dict[str, TokenPairs], documents_NT: DocumentIds
) -> tuple[SampleScore, ...]:
    """Return one item a window: the baseline's NLL, and the sums of every variant."""
    scores = {name: window_scores(pairs) for name, pairs in found.items()}
    nll_NT = next(iter(found.values())).nll_baseline
    return tuple(
        SampleScore(
            id=f"{text_name}/window/{index}",
            cluster=document_words(documents_T),
            scores={"num_tokens": len(nll_T), "nll_baseline": float(nll_T.sum())}
            | {
                f"{name}/{score}": value
                for name, rows in scores.items()
                for score, value in rows[index].items()
                if score != "nll_baseline"
            },
            token_nll=tuple(nll_T.tolist()),
            token_document=tuple(documents_T.tolist()),
        )
        for index, (nll_T, documents_T) in enumerate(zip(nll_NT, documents_NT, strict=True))
    )

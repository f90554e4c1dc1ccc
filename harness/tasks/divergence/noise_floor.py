"""Task `noise_floor`: how much results change without any quantization (an A/A comparison).

The unquantized model is compared with itself, changed in a way that should not matter:

- `batch`: two windows at a time instead of one. A matmul of another shape sums in another order.
- `attention`: the plain ("eager") attention kernel instead of the fused one, or the reverse.
- `dtype`: the weights of a 16-bit model in float32, which shows the error of 16-bit arithmetic. A
  float32 model is rounded to bfloat16 instead, weights and arithmetic.

Each variant is measured as task `divergence` measures a recipe. Recipes that differ by less than
these figures cannot be told apart. A variant that the model or the machine does not support is left
out, with a warning that gives the reason. For a checkpoint that came quantized, `model.baseline` is
measured in its place, and the record says so.

The model is never written to: kernels are set back, and the parameters of the other type stand in
for the original objects, which come back. Peak memory is that of `divergence` plus, during `dtype`,
a second copy of the parameters; the eager kernel holds all scores of a layer, heads x window^2.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.data.source import DataSource
from harness.engines.local.split_model import SplitModel, split
from harness.errors import ConfigError, ModelError, check_bounds
from harness.models.architecture import attention
from harness.models.loaded import LoadedModel
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks import baselines
from harness.tasks.base import TaskResult
from harness.tasks.baselines import Become
from harness.tasks.divergence.compare import (
    KeptSide,
    Side,
    compare,
    pair_warnings,
    window_samples,
    window_sums,
)
from harness.tasks.divergence.statistics import TokenPairs, divergence_metrics
from harness.tasks.windows import (
    Bos,
    DocumentIds,
    Windows,
    disjoint_windows,
    window_facts,
    window_protocol,
)

REPORTED = ("kl_mean", "kl_p99", "kl_max", "same_top", "delta_p_rms", "ln_ppl_ratio")
"""The statistics that each variant reports."""
BATCH = 2
UNSUPPORTED = (ImportError, RuntimeError, ValueError)
"""What torch and transformers raise for a kernel or type that a model or machine lacks."""


class Variant(NamedTuple):
    """A change that should not matter."""

    name: str
    change: str
    """The new setting in one word, such as `eager`."""
    side: Callable[[SplitModel], Side]
    """Returns the changed model as a side of the comparison."""


class PairedSide(Side):
    """A model that runs two windows at a time."""

    def hidden(self, windows: Windows) -> Iterator[Tensor]:
        """Yield the hidden states `[L, H]` of each window; an odd last one runs with the first."""
        count = len(windows.ids)
        for start in range(0, count, BATCH):
            states_BLH = self._run(windows.ids[[start, (start + 1) % count]])
            yield from states_BLH[: count - start]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFloor:
    """Distance of the unquantized model from itself; see the module docstring."""

    name: ClassVar[str] = "noise_floor"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    seeds: ClassVar[Mapping[str, int]] = {}

    data: DataSource
    """Where the text comes from."""
    window: int = 2048
    """Tokens of each window."""
    limit_windows: int | None = None
    """Number of windows to compare, from the first; None compares all."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None leaves it to the tokenizer. See `windows`."""

    def __post_init__(self) -> None:
        """Check the bounds of fields."""
        check_bounds(self, window=2, limit_windows=1)  # the first token of a window is not scored

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text."""
        return self.data.text().facts()

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Compare every variant with the model as it is.

        Raises:
            ConfigError: A recipe has changed the model.
            UnsupportedRecipe: The model came quantized, and `model.baseline` names no other model.
            ModelError: No variant can run.
        """
        if changed := len(loaded.swaps) + len(loaded.hooks):
            raise ConfigError(
                f"quant must be none for {self.name}, which compares the unquantized model with "
                f"itself, got a recipe that changed {changed} weights or activations; "
                "leave quant out"
            )
        base = (
            baselines.find(loaded, self.name) if loaded.came_quantized else baselines.itself(loaded)
        )
        loaded = base.loaded
        text = self.data.text()
        windows = disjoint_windows(text, loaded, self.window, self.limit_windows, bos=self.bos)
        documents = windows.scored_documents
        variants = tuple(_variants(loaded))
        found, warnings = _measure(loaded, windows, variants)
        if not base.is_itself:
            warnings.insert(
                0,
                f"the noise floor is that of the unquantized model {base.info.name}; "
                "the checkpoint was not run",
            )
        protocol = window_protocol(text, self.window, self.limit_windows, loaded, self.bos)
        changes = "|".join(f"{variant.name}={variant.change}" for variant in variants)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=f"{protocol}|{changes}",
                data=window_facts(text, windows),
            ),
            metrics=tuple(
                metric
                for variant in variants
                if variant.name in found
                for metric in _metrics(variant, found[variant.name], documents)
            ),
            samples=_samples(text.name, found, documents),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *pair_warnings(next(iter(found.values())), windows.ids),
                *warnings,
            ),
        )


def _variants(loaded: LoadedModel) -> Iterator[Variant]:
    dtype = torch.bfloat16 if loaded.dtype is torch.float32 else torch.float32
    kernel = "sdpa" if loaded.attention == "eager" else "eager"
    in_dtype = partial(in_other_dtype, loaded, dtype)
    with_kernel = partial(attention, loaded.module, kernel)
    # The variant with the largest effect comes first: a batch of two often changes nothing at all.
    yield Variant("dtype", str(dtype).removeprefix("torch."), lambda model: Side(model, in_dtype()))
    yield Variant("attention", kernel, lambda model: Side(model, with_kernel))
    yield Variant("batch", str(BATCH), PairedSide)


def _measure(
    loaded: LoadedModel, windows: Windows, variants: tuple[Variant, ...]
) -> tuple[dict[str, TokenPairs], list[str]]:
    """Return the statistics of each variant that can run, and why the others cannot.

    Raises:
        ModelError: None can run.
    """
    found: dict[str, TokenPairs] = {}
    warnings = []
    for variant in variants:
        # Each variant splits anew: a split model keeps a float32 copy of the head that it ran with.
        with split(loaded) as model:
            title = f"noise floor, {variant.name}"
            try:
                found[variant.name] = compare(variant.side(model), KeptSide(model), windows, title)
            except UNSUPPORTED as reason:
                warnings.append(
                    f"{variant.name}={variant.change} was not measured, unsupported by this model "
                    f"or machine: {type(reason).__name__}: {reason}"
                )
    if not found:
        raise ModelError(
            f"some variant must run to know the noise floor, got none: {'; '.join(warnings)}"
        )
    return found, warnings


def in_other_dtype(loaded: LoadedModel, dtype: torch.dtype) -> Become:
    """Return a context manager inside which a model has its parameters in another type.

    Buffers such as rotary frequencies stay as they are, and so do parameters that the model keeps
    in a type of their own.
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
        for name in REPORTED
    ]


def _samples(
    text_name: str, found: dict[str, TokenPairs], documents_NT: DocumentIds
) -> tuple[SampleScore, ...]:
    """Return one sample for each window: the baseline's NLL, and the sums of every variant."""
    nll_NT = next(iter(found.values())).nll_baseline
    scores = {"nll_baseline": nll_NT.sum(axis=1)} | {
        f"{variant}/{score}": values
        for variant, pairs in found.items()
        for score, values in window_sums(pairs).items()
        if score != "nll_baseline"
    }
    return window_samples(text_name, nll_NT, documents_NT, scores)

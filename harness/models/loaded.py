"""What a model source is, and what it loads."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from harness.models.architecture import attention_of, max_length
from harness.models.checkpoints.prequantized import Prequantized

Dtype = Literal["bfloat16", "float32", "float16"]
Weights = Literal["pretrained", "random"]
Made = TypeVar("Made")
TIED = "tie_word_embeddings"
"""The key of a configuration that says whether weights are tied."""


class Swap(NamedTuple):
    """A float parameter, or a module with one, and what stands in its place."""

    owner: nn.Module
    attribute: str
    original: nn.Parameter | nn.Module
    installed: nn.Parameter | nn.Module


class Tie(NamedTuple):
    """What a configuration said of tied weights."""

    config: Any
    own: dict[str, bool]
    """`tie_word_embeddings`, or nothing where the configuration itself had no such key."""


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model in memory: the one mutable object that travels along a run."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    name: str
    dtype: torch.dtype
    device: torch.device
    fingerprint: str
    """Hash of the weights and the tokenizer, or the hub commit."""
    revision: str | None = None
    """Commit of the hub."""
    origin: str = "float checkpoint"
    """What the float weights are, such as a dequantized 4-bit file."""
    weights: Weights = "pretrained"
    """`random`: only the shapes are the model's, and its outputs mean nothing."""
    prequantized: Prequantized | None = None
    """Facts about a quantized checkpoint, to which no recipe can be applied; None for float weights."""
    dequantized: Prequantized | None = None
    """Facts about the quantized file that float weights were dequantized from (GGUF); recipes can be applied to these."""
    baseline: "ModelSource | None" = None
    """The float model that a quantized model was made of; `harness.models.cache.load_baseline` loads it."""
    warnings: tuple[str, ...] = ()
    """What a user must know of how the model was loaded: ignored tensors, an adapter beside the weights."""
    folder: Path | None = None
    """Where its files lie, if it came from a folder of transformers' layout."""
    swaps: list[Swap] = field(default_factory=list)
    """Parameters and modules that a recipe has swapped out, in order."""
    hooks: list[RemovableHandle] = field(default_factory=list)
    """Hooks of a recipe, which round or record activations."""
    ties: list["Tie"] = field(default_factory=list)
    """Configurations that `untie` has changed, with what they said before."""
    kept: dict[Hashable, Any] = field(default_factory=dict)
    """Results of `cached`, by key."""
    is_float: bool = False
    """True inside `unquantized`, where hooks leave activations as they are."""

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the result of `make` for a key. It is called once; the result is kept as long as the model, for a whole sweep.

        The result may depend on the tokenizer and the float weights, never on a recipe.
        """
        if key not in self.kept:
            self.kept[key] = make()
        made: Made = self.kept[key]
        return made

    @property
    def came_quantized(self) -> bool:
        """The weights were quantized before they came here: they are no float model, whatever their type."""
        return self.prequantized is not None or self.dequantized is not None

    @property
    def max_length(self) -> int | None:
        """Longest sequence the model was made for [token]; None if its configuration has no limit."""
        return max_length(self.module)

    def fits(self, length: int) -> bool:
        """Say whether a sequence of so many tokens is within `max_length`."""
        return self.max_length is None or length <= self.max_length

    @property
    def attention(self) -> str:
        """Attention implementation of transformers that the text model runs with."""
        return attention_of(self.module)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def swap_parameter(
        self, owner: nn.Module, attribute: str, weight: torch.Tensor
    ) -> nn.Parameter:
        """Put `weight` in the place of a float parameter, which `restore` brings back; return what is in place now.

        A parameter shared by two modules is replaced in `owner` alone: give the other one the parameter that this returns.
        """
        original: nn.Parameter = getattr(owner, attribute)
        installed = weight
        if not isinstance(installed, nn.Parameter):
            installed = nn.Parameter(weight.to(original.dtype), requires_grad=False)
        setattr(owner, attribute, installed)
        self.swaps.append(Swap(owner, attribute, original, installed))
        return installed

    def swap_module(self, path: str, module: nn.Module) -> None:
        """Put a module in the place of the one at `path`, wherever the model has it; `restore` brings that back."""
        original, module = self.module.get_submodule(path), module.train(mode=False)
        for each in self.cached("paths of shared modules", self._shared_paths).get(path, [path]):
            parent, _, attribute = each.rpartition(".")
            owner = self.module.get_submodule(parent)
            if getattr(owner, attribute) is original:
                setattr(owner, attribute, module)
                self.swaps.append(Swap(owner, attribute, original, module))

    def _shared_paths(self) -> dict[str, list[str]]:
        """Return all paths of each module that has several, by the first."""
        paths: dict[nn.Module, list[str]] = defaultdict(list)
        for path, module in self.module.named_modules(remove_duplicate=False):
            paths[module].append(path)
        return {each[0]: each for each in paths.values() if len(each) > 1}

    def transform_input(
        self, owner: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Let `change` make what goes into a layer, until `restore`."""

        def hook(
            _: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
        ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
            if self.is_float:
                return args, kwargs
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"input": change(kwargs["input"])}

        self.hooks.append(owner.register_forward_pre_hook(hook, with_kwargs=True))

    @contextmanager
    def unquantized(self) -> Iterator[None]:
        """Be the float model inside the block, and the quantized one again after it.

        Both share every parameter that is not quantized; nothing is copied.
        """
        # What is in place now comes back, not what was put there: if something else took its place, the audit must see it.
        in_place = [getattr(swap.owner, swap.attribute) for swap in self.swaps]
        for swap in reversed(
            self.swaps
        ):  # of a weight that was swapped twice the first is the float one
            setattr(swap.owner, swap.attribute, swap.original)
        self.is_float = True
        try:
            yield
        finally:
            self.is_float = False
            for swap, parameter in zip(self.swaps, in_place, strict=True):
                setattr(swap.owner, swap.attribute, parameter)

    def count_displaced(self) -> int:
        """Count the swapped-in parameters and modules that are no longer in place."""
        return sum(getattr(s.owner, s.attribute) is not s.installed for s in self.swaps)

    def untie(self) -> None:
        """Keep transformers from tying weights again: `tie_weights` reads the configuration of each model in the model."""
        for part in self.module.modules():
            config = part.config if isinstance(part, PreTrainedModel) else None
            if getattr(config, TIED, False):
                own = {TIED: value} if (value := vars(config).get(TIED)) is not None else {}
                self.ties.append(Tie(config, own))
                setattr(config, TIED, False)

    def restore(self) -> None:
        """Bring back every float parameter, the very objects that were swapped out, and take off every hook."""
        while self.swaps:
            swap = self.swaps.pop()
            setattr(swap.owner, swap.attribute, swap.original)
        while self.hooks:
            self.hooks.pop().remove()
        while self.ties:
            config, own = self.ties.pop()
            delattr(config, TIED)
            vars(config).update(own)


@runtime_checkable
class ModelSource(Protocol):
    """Where a model comes from. Frozen and hashable: the whole source is the key of the model cache."""

    @property
    def name(self) -> str:
        """Name of the model in records and file names."""

    @property
    def dtype(self) -> Dtype:
        """Type of the float weights."""

    @property
    def weights(self) -> Weights:
        """Whether the weights are the model's own."""

    def fingerprint(self) -> str:
        """Return a hash that changes whenever the weights or the tokenizer do."""

    def load(self, device: torch.device) -> LoadedModel:
        """Load weights and tokenizer, in evaluation mode."""

"""A model in memory, whose weights can be swapped and restored, and the protocol of what loads one.

A run quantizes a `LoadedModel` in place, measures it, and restores it:

1. `swap_parameter` and `swap_module` put something in the place of an unquantized weight or layer;
   `transform_input` rounds the activations of a layer; `untie` separates tied weights.
2. `with unquantized():` puts the original weights back for the length of a block. So one copy of
   the model is its own baseline.
3. `restore` undoes 1. The next recipe of a sweep starts from the very same parameter objects.
"""

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
from harness.results.record import FLOAT_CHECKPOINT

Dtype = Literal["bfloat16", "float32", "float16"]
Weights = Literal["pretrained", "random"]
Made = TypeVar("Made")
TIED = "tie_word_embeddings"
"""Key of a configuration: whether input embedding and LM head share one weight."""


class Swap(NamedTuple):
    """An unquantized parameter, or a module that holds one, and its replacement."""

    owner: nn.Module
    attribute: str
    original: nn.Parameter | nn.Module
    installed: nn.Parameter | nn.Module


class Tie(NamedTuple):
    """The setting `tie_word_embeddings` of a configuration before `untie` changed it."""

    config: Any
    own: dict[str, bool]
    """The key and its value; empty where the configuration inherits the value from its class."""


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model in memory: the one mutable object of a run."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    name: str
    dtype: torch.dtype
    device: torch.device
    fingerprint: str
    """Hash of the weights and the tokenizer, or the commit on the hub."""
    revision: str | None = None
    """Commit on the hub."""
    origin: str = FLOAT_CHECKPOINT
    """Where the weights come from, in words, such as `dequantized gptq checkpoint (int4 ...)`."""
    weights: Weights = "pretrained"
    """`random`: the shapes are those of the model, and its outputs mean nothing."""
    prequantized: Prequantized | None = None
    """Facts about the quantized checkpoint. No recipe can be applied to it. None for float
    weights."""
    dequantized: Prequantized | None = None
    """Facts about the quantized GGUF file that was dequantized. Recipes can be applied."""
    baseline: "ModelSource | None" = None
    """Source of the unquantized model that a quantized checkpoint was made of; see
    `load_baseline`."""
    warnings: tuple[str, ...] = ()
    """Notes for the user about loading, such as ignored tensors or an adapter beside the
    weights."""
    folder: Path | None = None
    """Folder of its files, for a model in the layout of transformers."""
    swaps: list[Swap] = field(default_factory=list)
    """Parameters and modules that a recipe replaced, in order."""
    hooks: list[RemovableHandle] = field(default_factory=list)
    """Hooks of a recipe, which round or record activations."""
    ties: list["Tie"] = field(default_factory=list)
    """Configurations that `untie` changed."""
    kept: dict[Hashable, Any] = field(default_factory=dict)
    """Results of `cached`, by key."""
    is_float: bool = False
    """True inside `unquantized`: hooks leave activations as they are."""

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed once for each key and kept as long as the model.

        The result may depend on the tokenizer and the unquantized weights, but not on a recipe: the
        recipes of a sweep share it.
        """
        if key not in self.kept:
            self.kept[key] = make()
        made: Made = self.kept[key]
        return made

    @property
    def came_quantized(self) -> bool:
        """Whether the weights were quantized before they were loaded, even if float now."""
        return self.prequantized is not None or self.dequantized is not None

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the configuration allows [token]; None for no limit."""
        return max_length(self.module)

    @property
    def dtype_name(self) -> str:
        """Type of the weights in words, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the text model scores."""
        return int(self.module.config.get_text_config().vocab_size)

    def fits(self, length: int) -> bool:
        """Return whether a sequence of `length` tokens is within `max_length`."""
        return self.max_length is None or length <= self.max_length

    @property
    def attention(self) -> str:
        """Attention implementation of the text model, such as `sdpa`."""
        return attention_of(self.module)

    @property
    def num_parameters(self) -> int:
        """Number of parameters. A shared parameter counts once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def swap_parameter(
        self, owner: nn.Module, attribute: str, weight: torch.Tensor
    ) -> nn.Parameter:
        """Replace an unquantized parameter until `restore`; return the parameter now in place.

        Only `owner` gets the replacement. Where two modules share the parameter, pass the returned
        parameter for the second one.
        """
        original: nn.Parameter = getattr(owner, attribute)
        installed = weight
        if not isinstance(installed, nn.Parameter):
            installed = nn.Parameter(weight.to(original.dtype), requires_grad=False)
        setattr(owner, attribute, installed)
        self.swaps.append(Swap(owner, attribute, original, installed))
        return installed

    def swap_module(self, path: str, module: nn.Module) -> None:
        """Replace the module at `path`, and at its other paths in the model, until `restore`."""
        original, module = self.module.get_submodule(path), module.train(mode=False)
        for each in self.cached("paths of shared modules", self._shared_paths).get(path, [path]):
            parent, _, attribute = each.rpartition(".")
            owner = self.module.get_submodule(parent)
            if getattr(owner, attribute) is original:
                setattr(owner, attribute, module)
                self.swaps.append(Swap(owner, attribute, original, module))

    def _shared_paths(self) -> dict[str, list[str]]:
        """Return all paths of each module that has several, by the first path."""
        paths: dict[nn.Module, list[str]] = defaultdict(list)
        for path, module in self.module.named_modules(remove_duplicate=False):
            paths[module].append(path)
        return {each[0]: each for each in paths.values() if len(each) > 1}

    def transform_input(
        self, owner: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Replace the activation of a layer by `change(activation)`, until `restore`."""

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
        """Context manager: the unquantized model inside the block, the quantized one after it.

        The two share every parameter that is not quantized. Nothing is copied.
        """
        # Put back what is in place now, not what `swap_parameter` installed. If other code has
        # displaced an installed parameter, `count_displaced` must still find that.
        in_place = [getattr(swap.owner, swap.attribute) for swap in self.swaps]
        # In reverse: if a weight was swapped twice, the first swap holds the unquantized one.
        for swap in reversed(self.swaps):
            setattr(swap.owner, swap.attribute, swap.original)
        # An outer block may have done the same.
        before, self.is_float = self.is_float, True
        try:
            yield
        finally:
            self.is_float = before
            for swap, parameter in zip(self.swaps, in_place, strict=True):
                setattr(swap.owner, swap.attribute, parameter)

    def count_displaced(self) -> int:
        """Return how many installed parameters and modules are no longer in place."""
        return sum(getattr(s.owner, s.attribute) is not s.installed for s in self.swaps)

    def untie(self) -> None:
        """Turn off weight tying in the configuration of every model inside the model.

        Otherwise the next call of `tie_weights` in transformers would tie separated weights again.
        """
        for part in self.module.modules():
            config = part.config if isinstance(part, PreTrainedModel) else None
            if getattr(config, TIED, False):
                own = {TIED: value} if (value := vars(config).get(TIED)) is not None else {}
                self.ties.append(Tie(config, own))
                setattr(config, TIED, False)

    def restore(self) -> None:
        """Undo every swap, hook and `untie`. The original parameter objects are back in place."""
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
    """Protocol: where a model comes from. Frozen and hashable, as the key of the model cache."""

    @property
    def name(self) -> str:
        """Name of the model in records and file names."""

    @property
    def dtype(self) -> Dtype:
        """Type of the weights in memory."""

    @property
    def weights(self) -> Weights:
        """`pretrained`, or `random` where only the shapes are the model's."""

    def fingerprint(self) -> str:
        """Return a hash that changes with the weights and the tokenizer."""

    def load(self, device: torch.device) -> LoadedModel:
        """Return the model in evaluation mode, with its tokenizer."""

"""An oracle of INT8 for whole models: per-channel weights and per-token activations.

It uses no code of the project. Which parameters are matrices of a text run, and which axis is the
output, is listed here by architecture; the project asks the model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

KEPT = (
    *("*lm_head.weight", "*embed_out.weight", "*embed_in.weight", "output_projection.weight"),
    "cls.predictions.decoder.weight",
    *("*embed_tokens*", "*embed_positions*", "*tokens_embed*", "*positions_embed*", "*embeddings*"),
    *("*wte*", "*wpe*", "backbone.embedding*", "head.weight", "*time_mix*", "*_bias"),
    *("*conv1d*", "*conv_1d*", "*.conv.conv*", "*A_log"),
    *("*vision*", "*visual*", "*multi_modal_projector*", "*encoder_attn*"),
)
"""Embeddings, LM heads, and parameters that no matmul of a text run uses."""
ROUTERS = (
    *("*.gate.weight", "*.gate.wg.weight", "*.router.*", "*block_sparse_moe.router*"),
    *("*shared_expert_gate*", "*moe_statics*"),
)
"""Routers and gates of shared experts stay in float."""
IN_OUT: Mapping[str, Sequence[str]] = {
    "llama4_text": ("*experts.gate_up_proj", "*experts.down_proj"),
    "llama4": ("*experts.gate_up_proj", "*experts.down_proj"),
    "gpt_oss": ("*experts.gate_up_proj", "*experts.down_proj"),
    "recurrent_gemma": ("*gate_weight",),
    "dbrx": ("*experts.mlp.w2",),
}
"""Stacks stored as [.., in, out]."""
STACKED = {"dbrx": ("*experts.mlp.*", 4)}
"""Experts that lie under one another in a matrix, and how many."""
UNCALLED = {
    "mamba": ("*dt_proj.weight",),
    "falcon_mamba": ("*dt_proj.weight",),
    "jamba": ("*dt_proj.weight",),
}
"""Linear layers that are never called: their parent reads the weight."""
PRODUCTS = {
    "linear",
    "matmul",
    "__matmul__",
    "bmm",
    "addmm",
    "baddbmm",
    "_grouped_mm",
    "grouped_mm",
}


def matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def matrices(module: PreTrainedModel, name: str) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield name and matrix of what recipes quantize, and whether the last axis is the output."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            full = f"{path}.{attribute}"
            if parameter.dim() < 2 or matches(full, KEPT + ROUTERS) or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            turned = isinstance(owner, Conv1D) or matches(full, IN_OUT.get(name, ()))
            yield full, parameter, turned


def rounded(x: Tensor, axis: int) -> Tensor:
    """Round to INT8 with one scale for all that lies along an axis."""
    scale = x.abs().amax(axis, keepdim=True) / 127
    return torch.round(x / torch.where(scale == 0, torch.ones_like(scale), scale)) * scale


def round_weights(module: PreTrainedModel, name: str, without: Sequence[str] = ()) -> set[str]:
    """Round every matrix by output channel, in place; return their names."""
    names = set()
    for full, parameter, turned in matrices(module, name):
        if matches(full, without):
            continue
        pattern, count = STACKED.get(name, ("", 1))
        weight = parameter.data
        if fnmatchcase(full, pattern):
            weight = weight.view(count, -1, weight.shape[-1])
        weight.copy_(rounded(weight, -2 if turned else -1))
        names.add(full)
    return names


class RoundedInputs(TorchFunctionMode):
    """Rounds the activations of matmuls with some weights, per-token."""

    def __init__(self, weights: Collection[Tensor]) -> None:
        super().__init__()
        self.places = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.__name__ in PRODUCTS:
            operands = list(args)
            for place in range(1, len(operands)):
                if self.is_weight(operands[place]) and (func.__name__, place) != ("linear", 2):
                    operands[place - 1] = rounded(operands[place - 1], -1)
            args = tuple(operands)
        return func(*args, **(kwargs or {}))

    def is_weight(self, operand: object) -> bool:
        return isinstance(operand, Tensor) and operand.untyped_storage().data_ptr() in self.places

"""Which weights of a model can be quantized.

A target is a weight matrix `[N, K]` of a linear layer or of the token embedding, or a stack of them `[E, N, K]`: transformers 5
keeps the experts of a mixture as three-dimensional parameters, which no search for `nn.Linear` finds. What is a matrix
but not a target is reported too, so that no weight is left out unseen.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A weight that a recipe may quantize."""

    name: str
    """Module path, such as `model.layers.0.mlp.up_proj`; for expert stacks with the parameter's name."""
    owner: nn.Module
    attribute: str
    alias: str | None = None
    """`lm_head` or `embed_tokens`, whatever the architecture calls its own."""
    tied_to: str | None = None
    """The target that shares this weight, and comes before it."""
    transposed: bool = False
    """The stack is stored as `[E, K, N]`: its rows are not output channels."""

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that is in place now."""
        parameter: nn.Parameter = getattr(self.owner, self.attribute)
        return parameter

    def matches(self, pattern: str) -> bool:
        """Say whether a glob matches the path or the alias."""
        return fnmatchcase(self.name, pattern) or self.alias == pattern


def output_layer(module: PreTrainedModel) -> nn.Module:
    """Return the layer that makes logits, `lm_head` in most architectures."""
    head: nn.Module = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def find_targets(module: PreTrainedModel) -> list[Target]:
    """Return every target, in the model's own order."""
    embedding = module.get_input_embeddings()
    aliases = {
        id(embedding): "embed_tokens",
        id(output_layer(module)): "lm_head",
    }
    targets: list[Target] = []
    seen: dict[int, str] = {}
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            if not _is_target(owner, attribute, parameter, is_input=owner is embedding):
                continue
            name = f"{path}.{attribute}" if parameter.dim() == 3 else path
            targets.append(
                Target(
                    name=name,
                    owner=owner,
                    attribute=attribute,
                    alias=aliases.get(id(owner)),
                    tied_to=seen.get(id(parameter)),
                    transposed=bool(getattr(owner, "is_transposed", False)),
                )
            )
            seen.setdefault(id(parameter), name)
    return targets


def _is_target(
    owner: nn.Module, attribute: str, parameter: nn.Parameter, *, is_input: bool
) -> bool:
    if not parameter.is_floating_point():
        return False
    if isinstance(owner, nn.Linear) or is_input:
        return attribute == "weight"
    return parameter.dim() == 3 and not isinstance(owner, nn.Conv1d)


def find_unreachable(module: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the matrices that are no target, by parameter name: no recipe can quantize them."""
    reachable = {id(target.weight) for target in find_targets(module)}
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.dim() >= 2 and id(parameter) not in reachable
    }

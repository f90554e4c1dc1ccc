"""A causal language model in two halves: the body makes hidden states, the head makes float32 logits of some of them.

bf16 logits near 20 have steps of 0.125: one answer in ten then ties with another, and the loss of a window moves in
steps of up to 0.8 %, more than INT8 costs. So logits are computed in float32, from the float32 copies of the hidden
state and the head's weight. The vocabulary is large: the logits of a window of 2048 tokens are hundreds of megabytes,
its hidden states a few. So the body runs once over whole sequences, and the head over those positions that are
scored, a chunk at a time.

What a model does to its logits afterwards (soft caps, scaling) is its own code: the head's half runs the model's
`forward` with the body replaced by one that hands out the given hidden states.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engines.local.log_softmax import token_nll
from harness.engines.local.patch import patched
from harness.errors import ModelError
from harness.models.architecture import ATTENTION_TOLERANCE, text_model
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import output_layer

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**29}
"""Size of the float32 logits that are held at once, by type of device [byte]."""


FLOATS = (torch.float32, torch.bfloat16, torch.float16)
REFUSALS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)
"""What a model raises that is not put together in the way of the others."""


class SplitModel:
    """Decoder body and LM head of a loaded model, run apart; `split` makes one."""

    def __init__(self, loaded: LoadedModel, body: nn.Module, vocabulary: int) -> None:
        self.loaded = loaded
        self._body = body
        self._vocabulary = vocabulary
        self._output: type[Any] | None = None
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def hidden(self, ids_BS: Tensor, **options: Any) -> Tensor:
        """Return the last hidden states `[B, S, H]` of token sequences, in the model's type.

        `options` are those of the model's `forward`, such as `position_ids`; nothing is cached unless they say so.
        """
        options.setdefault("use_cache", False)
        output = self._body(ids_BS.to(self.loaded.device), **options)
        self._output = type(output)
        found: Tensor = output.last_hidden_state
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits `[..., V]` of hidden states `[..., H]`."""
        if self._output is None:  # what a body hands to its head is the model's own choice
            self.hidden(torch.zeros(1, 1, dtype=torch.long))
        assert self._output is not None  # noqa: S101 - hidden has set it
        rows_1NH = hidden.reshape(1, -1, hidden.shape[-1])
        given = self._output(last_hidden_state=rows_1NH)
        ids = torch.zeros(rows_1NH.shape[:2], dtype=torch.long, device=hidden.device)
        with patched(self._body, "forward", lambda *_, **__: given):
            logits_1NV: Tensor = self.loaded.module(ids, use_cache=False).logits
        return logits_1NV.view(*hidden.shape[:-1], -1)

    def nll(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return -ln p of each target given the hidden state before it, float64 `[N]` [nat].

        The logits exist a chunk of positions at a time.
        """
        # Made before the logits: small results that are kept between two chunks keep the heap from reusing their room.
        nll_N = torch.empty(len(targets_N), dtype=torch.float64, device=hidden_NH.device)
        for part, h, y in zip(*map(self.chunks, (nll_N, hidden_NH, targets_N)), strict=True):
            part.copy_(token_nll(self.logits(h), y))
        return nll_N

    def chunks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return rows in chunks of so many positions that their logits may be held."""
        budget = CHUNK_BYTES.get(rows.device.type, CHUNK_BYTES["cpu"])
        return torch.split(rows, max(1, budget // (4 * self._vocabulary)))

    def obstacle(self) -> str | None:
        """Return why the model cannot be scored in halves, or None if it can.

        The float model is run: a recipe may change logits, but not what the architecture can do.
        """
        ids_1S = torch.arange(1, 6, device=self.loaded.device)[None]
        with self.loaded.unquantized():
            try:
                whole = self.loaded.module(ids_1S, use_cache=False).logits
                hidden = self.hidden(ids_1S)
                halves = self.logits(hidden)
                others = self.hidden(torch.cat([ids_1S[:, :-1], ids_1S[:, :1]], dim=1))
            except REFUSALS as reason:
                return f"it does not run as one ({type(reason).__name__}: {reason})"
        if not torch.allclose(whole, halves, rtol=1e-4, atol=1e-4, equal_nan=True):
            gap = float((whole - halves).abs().max())
            return f"its logits differ by {gap} from those of its halves"
        # Checkpoints with one input scale for all tokens let a later token change earlier hidden states a little: not checked.
        if self.loaded.prequantized is None and _differ(hidden[:, :-1], others[:, :-1]):
            return "its tokens see those after them; a decoder has is_decoder in its config.json"
        return None

    def product_of(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a forward for a head that computes in float32, or, of a weight in low precision, gives its product as float32."""
        forward = head.forward
        if not isinstance(head, nn.Linear) or not _is_float(head.weight):
            return lambda hidden: forward(hidden.to(self.loaded.dtype)).float()

        def project(hidden: Tensor) -> Tensor:
            weight = head.weight
            if id(weight) not in self._copies:
                # Kept with the original, so that the id stays its own.
                self._copies[id(weight)] = (weight, weight.detach().float())
            bias: Tensor | None = head.bias
            floats = None if bias is None else bias.detach().float()
            return F.linear(hidden.float(), self._copies[id(weight)][1], floats)

        return project


def _differ(a: Tensor, b: Tensor) -> bool:
    """Say whether hidden states differ by more than rounding. NaN counts as no difference: scoring reports it."""
    error = float((a.float() - b.float()).norm() / b.float().norm())
    return error > ATTENTION_TOLERANCE[a.dtype]


def _is_float(weight: Tensor) -> bool:
    """Say whether a weight is a plain tensor of floats: libraries keep codes in subclasses and in narrow types."""
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype in FLOATS


@contextmanager
def split(loaded: LoadedModel) -> Iterator[SplitModel]:
    """Context manager that splits a model into body and LM head, in inference mode.

    Raises:
        ModelError: The model has no linear output layer to compute in float32, or is more than a body and a head.
    """
    module = loaded.module
    with loaded.unquantized():
        head = output_layer(module)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the output layer of the model must be a linear one, got {type(head).__name__}; "
            "scores of this architecture are not defined here"
        )
    # The head has a row for each token; its count stands where the config's may differ.
    halves = SplitModel(loaded, text_model(module), head.out_features)
    with ExitStack() as patches:
        patches.enter_context(torch.inference_mode())
        for each in {
            head,
            output_layer(module),
        }:  # `in_float` may put the first in place of the other
            patches.enter_context(patched(each, "forward", halves.product_of(each)))
        if reason := loaded.cached("obstacle to halves", halves.obstacle):
            raise ModelError(
                "the model must be causal, a body and a head on its hidden states, got a "
                f"{type(module).__name__}, but {reason}; scores of this architecture are not defined here"
            )
        yield halves

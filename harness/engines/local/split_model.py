"""Run the decoder body and the LM head of a model separately, with float32 logits.

Why float32 logits
    bfloat16 logits near 20 lie 0.125 apart. On that grid one MMLU answer in ten ties with another,
    and the loss of a window moves in steps of up to 0.8 %, more than INT8 costs. So the head
    multiplies float32 copies of the hidden states and of its weight.

Why two parts
    The vocabulary is large: the logits of a window of 2048 tokens take hundreds of megabytes, its
    hidden states a few. So the body runs once over whole sequences, and the head runs over the
    scored positions alone, a chunk at a time.

What is patched
    1. `forward` of the head, inside `split`: it computes in float32.
    2. `forward` of the body, inside one call of `logits`: it returns the given hidden states. The
       model's own `forward` then does what it always does to logits, such as soft caps or scaling.
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
"""Size of the float32 logits that exist at once, by type of device [byte]."""
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
RUN_ERRORS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)
"""What a model of an unusual structure raises when it is run in parts."""


class SplitModel:
    """Decoder body and LM head of a loaded model; made by `split`."""

    def __init__(self, loaded: LoadedModel, body: nn.Module, vocabulary: int) -> None:
        self.loaded = loaded
        self._body = body
        self._vocabulary = vocabulary
        self._output_type: type[Any] | None = None
        self._float_weights: dict[int, tuple[Tensor, Tensor]] = {}

    def hidden(self, ids_BS: Tensor, **options: Any) -> Tensor:
        """Return the last hidden states `[B, S, H]` of token ids `[B, S]`, in the model's dtype.

        `options` are arguments of the model's `forward`, such as `position_ids`. No cache is used
        unless `options` ask for one.
        """
        options.setdefault("use_cache", False)
        output = self._body(ids_BS.to(self.loaded.device), **options)
        self._output_type = type(output)
        found: Tensor = output.last_hidden_state
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits `[..., V]` of hidden states `[..., H]`."""
        if self._output_type is None:
            # The type that a body returns differs by model. Run one token to learn it.
            self.hidden(torch.zeros(1, 1, dtype=torch.long))
        assert self._output_type is not None  # noqa: S101 - set by `hidden`
        # The head treats positions one by one, so any shape runs as one sequence of N positions.
        rows_1NH = hidden.reshape(1, -1, hidden.shape[-1])
        given = self._output_type(last_hidden_state=rows_1NH)
        # The patched body ignores the ids; `forward` only reads their shape.
        ids = torch.zeros(rows_1NH.shape[:2], dtype=torch.long, device=hidden.device)
        with patched(self._body, "forward", lambda *_, **__: given):
            logits_1NV: Tensor = self.loaded.module(ids, use_cache=False).logits
        return logits_1NV.view(*hidden.shape[:-1], -1)

    def nll(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return -ln p of each target given the hidden state before it, float64 `[N]` [nat].

        Logits exist for one chunk of positions at a time.
        """
        # Allocated before any logits: a small result between two chunks would fragment the heap.
        nll_N = torch.empty(len(targets_N), dtype=torch.float64, device=hidden_NH.device)
        for part, h, y in zip(*map(self.chunks, (nll_N, hidden_NH, targets_N)), strict=True):
            part.copy_(token_nll(self.logits(h), y))
        return nll_N

    def chunks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split rows into chunks of as many positions as have logits of `CHUNK_BYTES`."""
        budget = CHUNK_BYTES.get(rows.device.type, CHUNK_BYTES["cpu"])
        return torch.split(rows, max(1, budget // (4 * self._vocabulary)))

    def unsupported(self) -> str | None:
        """Return why body and head cannot run separately, or None if they can.

        The unquantized model is run: a recipe may change logits, but not what an architecture can
        do.
        """
        ids_1S = torch.arange(1, 6, device=self.loaded.device)[None]
        with self.loaded.unquantized():
            try:
                whole = self.loaded.module(ids_1S, use_cache=False).logits
                hidden = self.hidden(ids_1S)
                joined = self.logits(hidden)
                # The same tokens with another last one: earlier hidden states must not change.
                others = self.hidden(torch.cat([ids_1S[:, :-1], ids_1S[:, :1]], dim=1))
            except RUN_ERRORS as reason:
                return f"it does not run as one ({type(reason).__name__}: {reason})"
        # Both run the same float32 head. 1e-4 covers another order of sums, and nothing else.
        if not torch.allclose(whole, joined, rtol=1e-4, atol=1e-4, equal_nan=True):
            difference = float((whole - joined).abs().max())
            return f"its logits differ by {difference} from those of body and head"
        # A checkpoint with one activation scale for all tokens lets a later token move earlier
        # hidden states a little, so quantized checkpoints are not checked.
        if self.loaded.prequantized is None and _differ(hidden[:, :-1], others[:, :-1]):
            return "its tokens see later tokens; a decoder has is_decoder in its config.json"
        return None

    def float32_forward(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a float32 `forward` for a head `[..., H] -> [..., V]`.

        A head with a weight in low precision keeps its own matmul; its result becomes float32.
        """
        forward = head.forward
        if not isinstance(head, nn.Linear) or not _is_float(head.weight):
            return lambda hidden: forward(hidden.to(self.loaded.dtype)).float()

        def project(hidden: Tensor) -> Tensor:
            # Read at each call: `loaded.unquantized` puts another weight into the same head.
            weight = head.weight
            if id(weight) not in self._float_weights:
                # The original is kept beside its copy: while it lives, no other tensor has its id.
                self._float_weights[id(weight)] = (weight, weight.detach().float())
            bias: Tensor | None = head.bias
            floats = None if bias is None else bias.detach().float()
            return F.linear(hidden.float(), self._float_weights[id(weight)][1], floats)

        return project


def _differ(a: Tensor, b: Tensor) -> bool:
    """Say whether hidden states differ by more than rounding.

    NaN does not count as a difference: scoring reports it.
    """
    error = float((a.float() - b.float()).norm() / b.float().norm())
    return error > ATTENTION_TOLERANCE[a.dtype]


def _is_float(weight: Tensor) -> bool:
    """Say whether a weight is a plain float tensor; libraries keep codes in subclasses of it."""
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype in FLOAT_DTYPES


@contextmanager
def split(loaded: LoadedModel) -> Iterator[SplitModel]:
    """Context manager that splits a model into body and LM head, in inference mode.

    Raises:
        ModelError: The head is not linear, the model is more than a body and a head, or it is not
            causal.
    """
    module = loaded.module
    with loaded.unquantized():
        head = output_layer(module)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the output layer of the model must be a linear one, got {type(head).__name__}; "
            "scores of this architecture are not defined here"
        )
    # The head has one row for each token. The vocabulary size in the config may be another number.
    model = SplitModel(loaded, text_model(module), head.out_features)
    with ExitStack() as patches:
        patches.enter_context(torch.inference_mode())
        # A recipe may have put a module in the head's place. `loaded.unquantized` swaps the two,
        # so both are patched.
        for each in {head, output_layer(module)}:
            patches.enter_context(patched(each, "forward", model.float32_forward(each)))
        if reason := loaded.cached("why body and head cannot run separately", model.unsupported):
            raise ModelError(
                "the model must be causal, a body and a head on its hidden states, got a "
                f"{type(module).__name__}, but {reason}; "
                "scores of this architecture are not defined here"
            )
        yield model

"""Greedy generation in two phases that can be timed: the prompt at once (prefill), then token by token (decode).

`generate` of transformers is made to be general: it prepares inputs, checks stopping criteria and builds masks for each token, and
gives no hold on the two phases. Here a phase is one call of the model: the head sees the last position only, the next token
is chosen on the device, and ends of text are ignored, so that every run has the same work.

Compiled, each phase is one graph for its one shape. On a GPU the graph of a step is replayed as a CUDA graph. On a CPU attention of
one query is compiled too (`one_query`), and the weights of float layers are packed for products of few rows
("freezing"), which costs a second copy of them. A quantized model is frozen only if every layer put in place says that nothing of
it can be folded into a float weight.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from transformers import Cache, PreTrainedModel, StaticCache

from harness.engines.local import decode_attention as one_query
from harness.engines.local.decodable import cache_argument, new_cache
from harness.models.architecture import text_config
from harness.models.loaded import LoadedModel

CacheKind = Literal["static", "dynamic"]
Phase = Literal["prefill", "decode"]
FREEZING: Mapping[str, Any] = MappingProxyType(
    {
        "freezing": True,
        "max_autotune": True,
        "max_autotune_gemm_backends": "CPP,ATEN",
        "max_autotune_report_choices_stats": False,
        "autotune_num_choices_displayed": 0,
    }
)
"""Settings of torch's compiler that pack constant weights and try its own products beside the library's, without telling all."""
FEW_ROWS: Mapping[str, Any] = MappingProxyType({"cpp.min_chunk_size": 4096})
"""A loop over the few numbers of a token runs on one thread: starting the others takes longer (INT8 decode: 66 to 86 token/s)."""
KEPT = ("keys", "values", "conv_states", "recurrent_states")
"""Attributes with the state that a layer of a cache keeps of earlier tokens."""
MOST_GRAPHS = 256
"""Compiled graphs that torch keeps of one function before it refuses; each phase of each model and shape is one."""


class Generation:
    """Sequences of one length, continued by a fixed number of tokens.

    It is bound to what is in the model when it is made: for the float model inside a quantized one, make and use it inside of
    `loaded.unquantized()`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompts_BS: Tensor,
        new_tokens: int,
        *,
        cache: CacheKind = "static",
        compiled: bool = False,
    ) -> None:
        """Take token ids `[B, S]`; nothing runs yet.

        Raises:
            ValueError: A growing cache is to be compiled: every step would be another shape.
            ModelError: The model takes no cache.
        """
        if compiled and cache == "dynamic":
            raise ValueError("cache must be static to be compiled, got dynamic")
        self._loaded = loaded
        self._prompts_BS = prompts_BS.to(loaded.device)
        self._length = prompts_BS.shape[1] + new_tokens
        self._kind = cache
        self._cache: Cache | None = None
        self._argument = cache_argument(loaded.module)
        self._position = 0
        self._token_B1 = self._prompts_BS[:, -1:]
        self.attention = loaded.attention
        """Attention implementation of transformers that it runs with."""
        self.compile_s = 0.0
        """Time of the first compiled calls [s]; 0 without compilation."""
        self._forward: dict[Phase, Callable[..., Tensor]] = dict.fromkeys(
            ("prefill", "decode"), _next_token
        )
        self._uncompiled: set[Phase] = set()
        self._cuda_graphs = compiled and loaded.device.type == "cuda"
        self._freezes = compiled and loaded.device.type == "cpu" and _may_freeze(loaded)
        if compiled:
            self._compile()

    def _compile(self) -> None:
        # fullgraph: what cannot be compiled is an error, not an eager call among compiled ones.
        compiled = partial(torch.compile, _next_token, fullgraph=True, dynamic=False)
        mode = "reduce-overhead" if self._cuda_graphs else None
        self._forward = {"prefill": compiled(), "decode": compiled(mode=mode)}
        if self._loaded.device.type == "cpu" and self.attention == "sdpa":
            self.attention = one_query.NAME
        self._uncompiled = {"prefill", "decode"}

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Run the prompts on an empty cache; return the token that follows each, `[B]`."""
        if "prefill" in self._uncompiled:
            self._fill()
        self._cache = self._empty()
        self._position = 0
        return self._call("prefill", self._prompts_BS)

    def _fill(self) -> None:
        """Let the cache take its memory in an eager call: a graph made for an empty one would be made again for the next prompt."""
        self._cache = self._empty()
        positions_1S = torch.arange(self._prompts_BS.shape[1], device=self._loaded.device)[None]
        _next_token(
            self._loaded.module, self._prompts_BS, positions_1S, {self._argument: self._cache}
        )

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Run the token of the call before; return the one that follows, `[B]`."""
        return self._call("decode", self._token_B1)

    def _call(self, phase: Phase, ids_BS: Tensor) -> Tensor:
        with _attention(self._loaded, self.attention):
            if phase not in self._uncompiled:
                return self._next(phase, ids_BS)
            started = time.perf_counter()
            with self._compiling(phase):
                token_B = self._next(phase, ids_BS)
            self.compile_s += time.perf_counter() - started
            self._uncompiled.discard(phase)
            return token_B

    @contextmanager
    def _compiling(self, phase: Phase) -> Iterator[None]:
        decoding = phase == "decode" and not self._cuda_graphs
        settings = {**FEW_ROWS, **(FREEZING if self._freezes else {})} if decoding else {}
        with (
            warnings.catch_warnings(),
            dynamo.patch(recompile_limit=MOST_GRAPHS),
            inductor.patch(settings),
        ):
            warnings.simplefilter("ignore")  # the compiler warns of code of its own
            yield

    def _next(self, phase: Phase, ids_BS: Tensor) -> Tensor:
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        stop = self._position + ids_BS.shape[1]
        positions_1S = torch.arange(self._position, stop, device=ids_BS.device)[None]
        cache = {self._argument: self._cache}
        token_B1 = self._forward[phase](self._loaded.module, ids_BS, positions_1S, cache)
        self._position = stop
        # What a CUDA graph gives is overwritten when it is replayed.
        self._token_B1 = token_B1.clone() if self._cuda_graphs else token_B1
        return self._token_B1[:, 0]

    def _empty(self) -> Cache:
        if isinstance(self._cache, StaticCache):
            self._cache.reset()  # type: ignore[no-untyped-call]
            return self._cache
        return new_cache(self._loaded.module, self._length if self._kind == "static" else None)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys, values and recurrent states that the cache holds [byte]."""
        layers = self._cache.layers if self._cache is not None else []
        kept = [getattr(layer, name, None) for layer in layers for name in KEPT]
        states = (each for held in kept if isinstance(held, dict) for each in held.values())
        return sum(tensor.nbytes for tensor in (*kept, *states) if isinstance(tensor, Tensor))


def _next_token(
    module: PreTrainedModel,
    ids_BS: Tensor,
    positions_1S: Tensor,
    cache: Mapping[str, Cache | None],
) -> Tensor:
    """Return the likeliest token after each sequence, `[B, 1]`; the choice is part of a compiled graph."""
    output = module(
        input_ids=ids_BS,
        position_ids=positions_1S,
        use_cache=True,
        logits_to_keep=1,
        **cache,
    )
    token_B1: Tensor = output.logits[:, -1:].argmax(-1)
    return token_B1


def forget_compiled() -> None:
    """Drop all compiled code of the process. It is kept by shape and module; torch refuses more than a few of each function."""
    torch.compiler.reset()


def _may_freeze(loaded: LoadedModel) -> bool:
    """Say whether constants may be folded: never where that could turn codes into a float weight."""
    if loaded.prequantized is not None:  # whatever its library keeps codes in
        return False
    installed = [] if loaded.is_float else [swap.installed for swap in loaded.swaps]
    return all(getattr(module, "may_freeze", False) for module in installed)


@contextmanager
def _attention(loaded: LoadedModel, name: str) -> Iterator[None]:
    """Let the model run with an attention implementation, without walking its modules for each token."""
    config = text_config(loaded.module)
    before = config._attn_implementation  # noqa: SLF001 - no public name
    config._attn_implementation = name  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001

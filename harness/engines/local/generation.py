"""Greedy generation in two phases that can be timed separately: prefill and decode.

Why not `generate` of transformers: it prepares inputs, checks stopping criteria and builds masks
for each token, and it does not separate the phases. Here each phase is one call of the model. The
head sees the last position only, the next token is chosen on the device, and end-of-text tokens
are ignored, so that every run does the same work.

Compiled, each phase is one graph for one shape:

    GPU    the graph of a decode step is replayed as a CUDA graph
    CPU    attention of one query is compiled too (`decode_attention`), and the weights of float
           layers are packed for matmuls of few rows ("freezing"), at the cost of a second copy

Freezing folds constants. A quantized model is frozen only if every module of the recipe declares
`may_freeze`: its codes cannot be folded into a float weight.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from transformers import Cache, PreTrainedModel, StaticCache

from harness.engines.local.decodable import cache_argument, new_cache
from harness.engines.local.decode_attention import ONE_QUERY
from harness.engines.timed import CacheKind, Phase
from harness.models.architecture import text_config
from harness.models.loaded import LoadedModel

FREEZING: Mapping[str, Any] = MappingProxyType(
    {
        "freezing": True,
        "max_autotune": True,
        "max_autotune_gemm_backends": "CPP,ATEN",
        # Print nothing about the choices.
        "max_autotune_report_choices_stats": False,
        "autotune_num_choices_displayed": 0,
    }
)
"""Compiler settings that pack constant weights and try the compiler's own matmuls beside the
library's."""
FEW_ROWS: Mapping[str, Any] = MappingProxyType({"cpp.min_chunk_size": 4096})
"""Compiler setting that runs a loop of less than 4,096 numbers on one thread. Starting the other
threads takes longer than the loop (INT8 decode: 66 to 86 token/s)."""
CACHE_TENSORS = ("keys", "values", "conv_states", "recurrent_states")
"""Attributes in which a layer of a cache keeps the state of earlier tokens."""
MOST_GRAPHS = 256
"""Compiled graphs that torch keeps of one function. Each phase of each model and shape is one; a
sweep has more than torch's own limit of 8."""


class Generation:
    """Prompts of one length, continued greedily by a fixed number of tokens.

    It runs the weights that are in place when it is made and when it is used. For the unquantized
    model, do both inside `loaded.unquantized()`.
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
        """Prepare prompts; nothing runs yet.

        Args:
            loaded: The model.
            prompts_BS: Token ids `[B, S]`.
            new_tokens: Tokens that are decoded after each prompt.
            cache: A KV cache of fixed size, or one that grows.
            compiled: Compile both phases.

        Raises:
            ValueError: A growing cache is to be compiled; each step would be another shape.
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
        # `prefill` replaces it.
        self._token_B1 = self._prompts_BS[:, -1:]
        self.attention = loaded.attention
        """Attention implementation of transformers that runs."""
        self.compile_s = 0.0
        """Time of the first compiled calls [s]; 0 without compilation."""
        self._forward: dict[Phase, Callable[..., Tensor]] = dict.fromkeys(
            ("prefill", "decode"), _next_token
        )
        # Phases whose next call compiles.
        self._uncompiled: set[Phase] = set()
        self._cuda_graphs = compiled and loaded.device.type == "cuda"
        # Freezing packs weights for the matmuls of a CPU.
        self._freezes = compiled and loaded.device.type == "cpu" and _may_freeze(loaded)
        if compiled:
            self._compile()

    def _compile(self) -> None:
        # fullgraph: code that cannot be compiled is an error. torch would run it eagerly.
        compiled = partial(torch.compile, _next_token, fullgraph=True, dynamic=False)
        # reduce-overhead is torch's name for CUDA graphs.
        mode = "reduce-overhead" if self._cuda_graphs else None
        self._forward = {"prefill": compiled(), "decode": compiled(mode=mode)}
        # Another attention was chosen by the user, and is not replaced.
        if self._loaded.device.type == "cpu" and self.attention == "sdpa":
            self.attention = ONE_QUERY
        self._uncompiled = {"prefill", "decode"}

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Run the prompts on an empty cache; return the next token of each, `[B]`."""
        if "prefill" in self._uncompiled:
            self._allocate_cache()
        # A used cache holds the keys of the call before.
        self._cache = self._empty_cache()
        self._position = 0
        return self._call("prefill", self._prompts_BS)

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Run the token that the last call returned; return the next token of each row, `[B]`."""
        return self._call("decode", self._token_B1)

    def _allocate_cache(self) -> None:
        """Let the cache allocate its memory in an eager call.

        A graph compiled for a cache without memory would be compiled again for the next prompt.
        """
        self._cache = self._empty_cache()
        positions_1S = torch.arange(self._prompts_BS.shape[1], device=self._loaded.device)[None]
        _next_token(
            self._loaded.module, self._prompts_BS, positions_1S, {self._argument: self._cache}
        )

    def _empty_cache(self) -> Cache:
        if isinstance(self._cache, StaticCache):
            # Reused: compiled graphs hold the addresses of its tensors.
            self._cache.reset()  # type: ignore[no-untyped-call]
            return self._cache
        return new_cache(self._loaded.module, self._length if self._kind == "static" else None)

    def _call(self, phase: Phase, ids_BS: Tensor) -> Tensor:
        """Run one phase; the first compiled call of each is timed as compilation."""
        with _attention_implementation(self._loaded, self.attention):
            if phase not in self._uncompiled:
                return self._run(phase, ids_BS)
            # Compilation happens inside the first call of a graph.
            started = time.perf_counter()
            with self._compiler_settings(phase):
                token_B = self._run(phase, ids_BS)
            self.compile_s += time.perf_counter() - started
            self._uncompiled.discard(phase)
            return token_B

    @contextmanager
    def _compiler_settings(self, phase: Phase) -> Iterator[None]:
        # Both settings are for few rows; prefill has many. A CUDA graph has no loops on a CPU.
        decoding = phase == "decode" and not self._cuda_graphs
        settings = {**FEW_ROWS, **(FREEZING if self._freezes else {})} if decoding else {}
        with (
            warnings.catch_warnings(),
            dynamo.patch(recompile_limit=MOST_GRAPHS),
            inductor.patch(settings),
        ):
            warnings.simplefilter("ignore")  # the compiler warns of its own code
            yield

    def _run(self, phase: Phase, ids_BS: Tensor) -> Tensor:
        if self._cuda_graphs:
            # Tells torch that outputs of the step before may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # Positions are an input of the graph, so that one graph serves every step.
        stop = self._position + ids_BS.shape[1]
        positions_1S = torch.arange(self._position, stop, device=ids_BS.device)[None]
        cache = {self._argument: self._cache}
        token_B1 = self._forward[phase](self._loaded.module, ids_BS, positions_1S, cache)
        self._position = stop
        # The next replay of a CUDA graph overwrites its output.
        self._token_B1 = token_B1.clone() if self._cuda_graphs else token_B1
        return self._token_B1[:, 0]

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys, values and recurrent states that the cache holds [byte]."""
        layers = self._cache.layers if self._cache is not None else []
        kept = [getattr(layer, name, None) for layer in layers for name in CACHE_TENSORS]
        # Some layers keep a dict of several states under one attribute.
        states = (each for held in kept if isinstance(held, dict) for each in held.values())
        return sum(tensor.nbytes for tensor in (*kept, *states) if isinstance(tensor, Tensor))


def _next_token(
    module: PreTrainedModel,
    ids_BS: Tensor,
    positions_1S: Tensor,
    cache: Mapping[str, Cache | None],
) -> Tensor:
    """Return the most likely next token of each sequence, `[B, 1]`.

    The choice is part of the compiled graph.
    """
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
    """Drop all compiled code of the process, which torch keeps by shape and module."""
    torch.compiler.reset()


def _may_freeze(loaded: LoadedModel) -> bool:
    """Say whether the compiler may fold constants; it must not turn codes into float weights."""
    if loaded.prequantized is not None:  # its library keeps codes in a form of its own
        return False
    # Inside `unquantized` no module of the recipe is in place.
    installed = [] if loaded.is_float else [swap.installed for swap in loaded.swaps]
    return all(getattr(module, "may_freeze", False) for module in installed)


@contextmanager
def _attention_implementation(loaded: LoadedModel, name: str) -> Iterator[None]:
    """Context manager in which the text model runs with an attention implementation.

    Unlike `harness.models.architecture.attention` it walks no modules: it runs once a token.
    """
    config = text_config(loaded.module)
    before = config._attn_implementation  # noqa: SLF001 - no public name
    config._attn_implementation = name  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001

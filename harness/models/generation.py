"""Greedy generation in two phases that can be timed: the prompt at once (prefill), then token by token (decode).

`generate` of transformers is made to be general: it prepares inputs, checks stopping criteria and builds masks for each token, and
gives no hold on the two phases. Here a phase is one call of the model: the head sees the last position only, the next token
is chosen on the device, and ends of text are ignored, so that every run has the same work.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from harness.models.source import LoadedModel

CacheKind = Literal["static", "dynamic"]


class Generation:
    """Sequences of one length, continued by a fixed number of tokens.

    It is bound to what is in the model when it is made: for the float model inside a quantized one, make and use it inside of
    `loaded.in_float()`.
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
        """Take token ids `[B, S]`; nothing runs yet."""
        self._loaded = loaded
        self._prompts_BS = prompts_BS.to(loaded.device)
        self._length = prompts_BS.shape[1] + new_tokens
        self._kind = cache
        self._cache: Cache | None = None
        self._position = 0
        self._token_B1 = self._prompts_BS[:, -1:]
        self._forward: Callable[..., Any] = loaded.module
        if compiled:
            self._forward = torch.compile(loaded.module.forward, dynamic=False)
        self._uncompiled = {"prefill", "decode"} if compiled else set()
        self.compile_s = 0.0
        """Time of the first compiled calls [s]; 0 without compilation."""

    def prefill(self) -> Tensor:
        """Run the prompts on an empty cache; return the token that follows each, `[B]`."""
        self._cache = self._empty()
        self._position = 0
        return self._call("prefill", self._prompts_BS)

    def step(self) -> Tensor:
        """Run the token of the call before; return the one that follows, `[B]`."""
        return self._call("decode", self._token_B1)

    def _call(self, phase: str, ids_BS: Tensor) -> Tensor:
        if phase not in self._uncompiled:
            return self._next(ids_BS)
        started = time.perf_counter()
        token_B = self._next(ids_BS)
        self.compile_s += time.perf_counter() - started
        self._uncompiled.discard(phase)
        return token_B

    @torch.inference_mode()
    def _next(self, ids_BS: Tensor) -> Tensor:
        stop = self._position + ids_BS.shape[1]
        positions_1S = torch.arange(self._position, stop, device=ids_BS.device)[None]
        logits_B1V = self._forward(
            input_ids=ids_BS,
            position_ids=positions_1S,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self._position = stop
        self._token_B1 = logits_B1V[:, -1:].argmax(-1)
        return self._token_B1[:, 0]

    def _empty(self) -> Cache:
        config = self._loaded.module.config
        if self._kind == "dynamic":
            return DynamicCache(config=config)
        if isinstance(self._cache, StaticCache):
            self._cache.reset()
            return self._cache
        return StaticCache(config=config, max_cache_len=self._length)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values that the cache holds [byte]."""
        layers = self._cache.layers if self._cache is not None else []
        kept = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
        return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))

"""A loaded model that can be timed, with native or with float32 matmuls.

On a CPU without 16-bit instructions, native 16-bit matmuls are several times slower than float32
ones (`cpu_matmul`); on other CPUs the reverse. So a 16-bit model on a CPU has two ways.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.engines.local.cpu_matmul import MatmulWay, multiplied, ways
from harness.engines.local.decodable import check_decoding
from harness.engines.local.generation import Generation, forget_compiled
from harness.engines.local.matmul_types import Spy
from harness.engines.local.shape import shape_of, streamed_bytes
from harness.engines.local.time_request import time_request
from harness.engines.timed import Matmuls, Phase, Timed, TimedModel, Workload
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.timing.clock import clock_of
from harness.timing.roofline import Shape

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine

LEAST_TOKENS = 2
"""New tokens of the shortest request that has both phases."""


@contextmanager
def timed(engine: "LocalEngine", workload: Workload) -> Iterator[TimedModel]:
    """Context manager: the model of an engine, to be timed with native matmuls.

    Raises:
        ModelError: The model does not decode with a cache as it runs whole sequences.
    """
    prompts_BS = torch.tensor(workload.prompts)
    length = prompts_BS.shape[1] + workload.new_tokens if workload.cache == "static" else None
    check_decoding(engine.loaded, prompts_BS, length)
    try:
        yield TimedLocalModel(engine, workload, prompts_BS)
    finally:
        if workload.compile:  # torch keeps code for only a few shapes and models
            forget_compiled()


class TimedLocalModel(TimedModel):
    """A loaded model that is timed with one kind of matmul."""

    def __init__(
        self,
        engine: "LocalEngine",
        workload: Workload,
        prompts_BS: Tensor,
        way: MatmulWay = "native",
    ) -> None:
        """Prepare a model, and run a few tokens to observe its matmuls.

        Args:
            engine: Its model is timed.
            workload: The request.
            prompts_BS: Token ids `[B, S]` of the request.
            way: How linear layers multiply.
        """
        loaded = engine.loaded
        self._engine = engine
        self._workload = workload
        self._prompts_BS = prompts_BS
        self._way = way
        self._clock = clock_of(loaded.device)
        generation = partial(Generation, loaded, prompts_BS, cache=workload.cache)
        with self._in_place():
            self._generation = generation(workload.new_tokens, compiled=workload.compile)
            # All of these depend on the weights that are in place.
            self._weight_bytes = stored_bytes(loaded.module)
            self._streamed_bytes = streamed_bytes(loaded)
            # Eager: the operators inside a compiled graph cannot be observed.
            self._matmuls = observe_matmuls(generation(LEAST_TOKENS))

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Context manager inside which this model is in place and multiplies in its way."""
        with self._engine.within(), multiplied(self._way):
            yield

    def request(self) -> Timed:
        """Run both phases."""
        with self._in_place():
            stamps = time_request(self._generation, self._workload.new_tokens, self._clock)
        return Timed(sequences=(stamps,), whole_s=stamps.last_token - stamps.started)

    def with_float32_matmuls(self) -> TimedModel | None:
        """Return the same model with float32 matmuls, if it has 16-bit matmuls on a CPU."""
        if "float32" not in ways(self._engine.loaded):
            return None
        return TimedLocalModel(self._engine, self._workload, self._prompts_BS, way="float32")

    @property
    def device(self) -> str:
        """The device that the model is loaded on."""
        return str(self._engine.loaded.device)

    @property
    def how(self) -> str:
        """Cache, compilation, attention and threads."""
        compiled = "yes" if self._workload.compile else "no"
        return (
            f"cache={self._workload.cache}|compile={compiled}"
            f"|attention={self._generation.attention}|threads={torch.get_num_threads()}"
        )

    @property
    def weight_bytes(self) -> int:
        """Memory of everything that the model holds, as stored [byte]."""
        return self._weight_bytes

    @property
    def cache_bytes(self) -> int:
        """Memory of keys, values and recurrent states after a request [byte]."""
        return self._generation.cache_bytes

    @property
    def compile_s(self) -> float:
        """Time of the first compiled calls [s]."""
        return self._generation.compile_s

    @property
    def matmuls(self) -> Mapping[Phase, Matmuls]:
        """The matmuls of each phase, as observed."""
        return self._matmuls

    @property
    def streamed_bytes(self) -> int:
        """Memory of the matrices that every decode step reads [byte]."""
        return self._streamed_bytes

    @property
    def attention_types(self) -> tuple[str, ...]:
        """The model's type, and float32 on a CPU."""
        name = self._engine.loaded.dtype_name
        # The attention kernel of CPUs takes 16-bit operands and computes in float32.
        return (name, "float32") if self._engine.loaded.device.type == "cpu" else (name,)

    def shape(self) -> Shape:
        """Return the sizes; the layers of a recipe count as the layers that they replace."""
        return shape_of(self._engine.loaded)


def observe_matmuls(generation: Generation) -> dict[Phase, Matmuls]:
    """Run both phases of the model in place and return the matmuls of each."""
    runs: dict[Phase, Callable[[], object]] = {
        "prefill": generation.prefill,
        "decode": generation.step,
    }
    found: dict[Phase, Matmuls] = {}
    for phase, run in runs.items():
        with Spy() as spy:
            run()
        found[phase] = spy.matmuls()
    return found

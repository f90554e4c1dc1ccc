"""Run a checkpoint folder in vLLM: token ids in, greedy tokens and time stamps out.

**Unverified.** The wheel needs a GPU and several GB. This room is written to vLLM's documentation
(0.11 and later) and tested against a stand-in of that interface, never against vLLM. Every record
says so.

`engine` is the configuration: it starts vLLM by its offline interface (`LLM`), in this process,
and frees its memory. `running` is the started engine: it sends prompts and checks that vLLM ran
them as they were sent.
"""

from harness.engines.vllm.engine import UNVERIFIED, VllmEngine
from harness.engines.vllm.running import Completion, Running, Stamps

__all__ = ["UNVERIFIED", "Completion", "Running", "Stamps", "VllmEngine"]

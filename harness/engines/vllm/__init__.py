"""Run a checkpoint folder in vLLM, in a process and a Python of its own.

The packages that the harness needs and those that vLLM needs cannot be installed together.
So vLLM has an environment of its own, and a worker there exchanges lines of JSON with this process:

    engine      the option `engine=vllm`, which starts an engine
    running     the engine that tasks ask
    prompts     turns `Score` into prompts: log-probabilities of prompt tokens and of the next token
    decoding    turns `Generate` into prompts, until a stop text or an end-of-text token
    timing      times a request by the stamps of vLLM
    server      sends prompts in batches, and loads the model with arguments that suit them
    process     starts and ends the worker, and reads its lines
    worker      the program in the other environment: imports vLLM and the standard library alone
    installed   asks a Python which vLLM it has

An output counts only if vLLM ran exactly the prompt that was sent, and if it has the right length.
docs/vllm.md says what was verified against vLLM itself.
"""

from harness.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]

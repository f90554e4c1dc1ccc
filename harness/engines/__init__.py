"""How a model answers: programs that run it. `local/` is this process, `vllm/` a vLLM server or library."""

"""vLLM as an engine: a checkpoint folder in, generated tokens and speeds out."""

from harness.engines.vllm.client import VllmEngine

__all__ = ["VllmEngine"]

"""quant-harness: what does a quantized language model lose, and is the loss real?"""

__version__ = "0.1.0"

"""Backends: what computes in the place of a float weight.

A recipe picks a backend. The backend gets each weight as codes and scales, puts something that
computes with them into the model, and says afterwards what it finds there.

    layer          the vocabulary: the rule of a recipe, and a quantized layer
    base           the contract of a backend, and how modules are put in place
    fake           rounded weights in the model's float type; rounded activations through hooks
    scaled_mm/     our own INT8 and FP8 layers, on torch's matmuls
    torchao/       torchao's weight tensors, and SmoothQuant
    bitsandbytes/  NF4, FP4 and LLM.int8 in the layers of bitsandbytes
    int8_matmul    the exact INT8 matmul, and a test whether a processor has one
    probe          measures how exactly each kind of layer in place multiplies
    stored_layers  the same for the layers of a checkpoint that came quantized
"""

from harness.backends.base import Backend, CalibratedBackend, Installed, PreparedBackend
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer

__all__ = [
    "Backend",
    "CalibratedBackend",
    "FakeBackend",
    "Installed",
    "LayerRule",
    "PreparedBackend",
    "QuantizedLayer",
]

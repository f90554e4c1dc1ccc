"""Facts about a quantized checkpoint: method, formats, sizes. Records hold them.

Sizes are measured on the tensors in the files and in memory, not computed from bits. Most methods
are dequantized when they are loaded; memory and speed then equal the unquantized model's.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Prequantized:
    """Facts about a model whose checkpoint is quantized."""

    method: str
    """Name in `config.json`, such as `gptq` or `compressed-tensors`."""
    scheme: str
    """Formats of weights and activations, such as `int4 weights in groups of 128`."""
    kind: Literal["fake-quant", "real"]
    """`real`: memory holds codes, and kernels multiply them. `fake-quant`: memory holds dequantized
    weights."""
    num_parameters: int
    """Parameters of the unquantized model."""
    num_quantized: int
    """Parameters that the files hold as codes."""
    packed_bits: int
    """Size of codes, at the width of their format, and of scales and zero points [bit]."""
    file_bytes: int
    """Tensors in the files: codes, scales, and float weights [byte]."""
    stored_bytes: int
    """Tensors in memory [byte]."""
    inputs: str | None = None
    """Format of rounded activations, such as `int8 by token`; None if they are not rounded."""
    outputs: str | None = None
    """Format of rounded outputs of layers; None if they are not rounded."""
    cache: str | None = None
    """Format of keys and values in the KV cache; None if they are not rounded."""
    warnings: tuple[str, ...] = ()
    """Notes for the user about loading."""
    num_unused: int = 0
    """Parameters that a text run does not need, such as those of a vision tower."""
    num_unused_codes: int = 0
    """Number of these that the files hold as codes."""

    @property
    def coverage(self) -> float:
        """Share of the parameters of a text run that the files hold as codes."""
        used = self.num_parameters - self.num_unused
        return (self.num_quantized - self.num_unused_codes) / used

    @property
    def origin(self) -> str:
        """Where the weights come from, in words; see `LoadedModel.origin`."""
        how = "dequantized " if self.kind == "fake-quant" else ""
        return f"{how}{self.method} checkpoint ({self.scheme})"

    @property
    def bits_per_weight(self) -> float:
        """Mean over the quantized parameters, scales included [bit]; NaN if there are none."""
        return self.packed_bits / self.num_quantized if self.num_quantized else float("nan")

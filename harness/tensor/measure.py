"""Quantize every tensor of a file in every format, with one tensor in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.display.progress import bar
from harness.errors import ConfigError
from harness.quant.primitives import encode, fit
from harness.quant.tensor import TensorFormat
from harness.tensor.error import Error, compare
from harness.tensor.files import TensorFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One tensor in one format."""

    tensor: str
    format: str
    error: Error
    values: Tensor
    """The dequantized tensor, float32."""


def measure(
    file: TensorFile, names: Sequence[str], formats: Mapping[str, TensorFormat]
) -> Iterator[Measured]:
    """Yield every named tensor in every format, tensor by tensor.

    Raises:
        ConfigError: A format does not support a tensor.
    """
    with bar("quantizing", len(names) * len(formats)) as progress:
        for name in names:
            stored = file.read(name)
            x = stored.float()  # formats compute in float32
            for format_name, fmt in formats.items():
                try:
                    # `encode` lets values overflow, which is a problem in the table, no exception.
                    quantized = encode(x, fmt, fit(x, fmt))
                except ValueError as reason:
                    raise ConfigError(
                        f"{format_name} must support every tensor, got {name} "
                        f"{list(stored.shape)}: {reason}; choose others with --tensor"
                    ) from reason
                values = quantized.dequantize()
                error = compare(stored, values, quantized.total_bits)
                yield Measured(tensor=name, format=format_name, error=error, values=values)
                progress.advance()

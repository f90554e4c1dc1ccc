"""Which device a run uses, and whether it is at home with the model's type."""

from collections.abc import Collection

import torch

from harness.errors import ConfigError


def choose(name: str) -> torch.device:
    """Return the device of a name: `auto` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: The name means nothing, or the device is not there; nothing else is taken instead.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from reason
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise ConfigError(
            f"device must be one that is there, got {name!r} with {count} CUDA devices; use device=cpu"
        )
    return torch.device("cuda", index)


def slow_type(device: torch.device, dtype: torch.dtype, cpu_flags: Collection[str]) -> str | None:
    """Return advice if a CPU without instructions for 16-bit matrices is to multiply them.

    Measured on a Xeon with AVX-512 but without AVX512-BF16: a 2048 x 576 x 1536 product runs at 63 GFLOP/s in
    bfloat16, 28 in float16 and 325 in float32.
    """
    native = {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags)
    if device.type != "cpu" or dtype is torch.float32 or not cpu_flags:
        return None
    if dtype is torch.bfloat16 and native:
        return None
    name = str(dtype).removeprefix("torch.")
    return f"this processor multiplies {name} matrices slowly; model.dtype=float32 may be several times faster"

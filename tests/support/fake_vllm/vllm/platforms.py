"""What a wheel of vLLM says of the device that it is built for."""

from types import SimpleNamespace

from vllm import TOLD

current_platform = SimpleNamespace(device_type=TOLD.get("device", "cpu"))

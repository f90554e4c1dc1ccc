"""The protocol of the options of `engine=`.

An option is a frozen dataclass of the configuration. It starts an `Engine` for the loaded model, or
for a model that the engine loads by itself.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harness.engines.base import Engine

if TYPE_CHECKING:
    import torch

    from harness.models.loaded import LoadedModel


@runtime_checkable
class EngineSource(Protocol):
    """Protocol: an option of `engine=`, a frozen dataclass that starts an engine."""

    @property
    def label(self) -> str:
        """Name of the option, such as `vllm`."""

    @property
    def starts(self) -> type[Engine]:
        """Class of the engine that it starts."""

    @property
    def model_name(self) -> str | None:
        """Name of the model that the engine loads by itself; None if it takes a loaded model.

        `model` and `quant` do not apply to a model that the engine loads by itself.
        """

    def facts(self) -> dict[str, Any]:
        """Return what identifies the engine, and its own model if it loads one.

        It is a part of a run's identity.
        """

    def start(
        self, loaded: "LoadedModel | None", device: "torch.device"
    ) -> AbstractContextManager[Engine]:
        """Context manager: an engine that can be asked.

        Args:
            loaded: The model; None for an engine that loads its own.
            device: The device of the run.
        """

"""Load the model of a folder into vLLM in a worker, and send prompts to it.

The model is loaded before the first prompt, with arguments that suit the prompts. If later prompts
need other arguments, another worker loads it again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from harness.engines.vllm.process import Refused, WorkerProcess, started
from harness.engines.vllm.prompts import Prompt
from harness.errors import ConfigError, InvalidResult, ModelError

SENT_TOKENS = 65536
"""Tokens that are sent at once: many steps of vLLM, and answers of a few megabytes."""

log = logging.getLogger(__name__)


class Server(ExitStack):
    """Runs prompts, as a context manager that ends the worker."""

    def __init__(self, python: str, arguments: Mapping[str, Any], device: str) -> None:
        """Start nothing yet.

        Args:
            python: The Python that has vLLM.
            arguments: Arguments of `vllm.LLM`.
            device: Type of the device that vLLM must be built for.
        """
        super().__init__()
        self._python = python
        self._arguments = arguments
        self._device = device
        self._worker: WorkerProcess | None = None
        self._needs: Mapping[str, Any] | None = None
        """The `needs` that the model was loaded with; None before it is loaded."""

    def connect(self) -> WorkerProcess:
        """Start the worker if none runs, wait until it has imported vLLM, and return it.

        Raises:
            ConfigError: The Python has no vLLM, or one that is built for another kind of device.
        """
        if self._worker is not None:
            return self._worker
        worker = self.enter_context(started(self._python))
        try:
            built_for = worker.read()["device"]
        except Refused as reason:
            raise ConfigError(
                f"engine.python must be a Python that can import vllm, got {self._python}: {reason}"
            ) from reason
        # A wheel of vLLM is built for one kind of device, and takes no other.
        if built_for != self._device:
            raise ConfigError(
                f"device must be {built_for}, for which the installed vLLM is built, got "
                f"{self._device}"
            )
        self._worker = worker
        return worker

    def load(self, needs: Mapping[str, Any]) -> None:
        """Load the model, unless it is loaded with these arguments.

        Args:
            needs: Arguments of `vllm.LLM` that suit the prompts; values that the user has set take
                precedence.

        Raises:
            ModelError: vLLM cannot load the folder.
        """
        if self._needs is not None and needs.items() <= self._needs.items():
            return
        if self._needs is not None:
            self.close()
            self._worker = self._needs = None
        log.info("vllm: loading %s", self._arguments["model"])
        try:
            self.connect().ask({"load": {**needs, **self._arguments}})
        except Refused as reason:
            raise ModelError(
                f"engine.path must be a folder that vLLM loads, got {self._arguments['model']}: "
                f"{reason}"
            ) from reason
        self._needs = needs

    def run(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the index of each prompt and its output, in order, a batch at a time.

        The model must be loaded.
        """
        for batch in _batches(prompts):
            outputs = self.run_batch([prompts[index] for index in batch])
            yield from zip(batch, outputs, strict=True)

    def run_batch(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Run prompts together; return their outputs.

        Raises:
            ModelError: vLLM refuses a prompt.
            InvalidResult: vLLM lost a prompt.
        """
        try:
            sent = [prompt._asdict() for prompt in prompts]
            outputs: list[dict[str, Any]] = self.connect().ask({"run": sent})["outputs"]
        except Refused as reason:
            raise ModelError(f"vLLM must run every prompt, got {reason}") from reason
        if len(outputs) != len(prompts):
            raise InvalidResult(
                f"vLLM must answer {len(prompts)} prompts, got {len(outputs)} answers"
            )
        return outputs


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield indices of prompts sent at once: `SENT_TOKENS` tokens at most, or a single prompt."""
    batch: list[int] = []
    room = SENT_TOKENS
    for index, prompt in enumerate(prompts):
        if batch and prompt.num_tokens > room:
            yield batch
            batch, room = [], SENT_TOKENS
        batch.append(index)
        room -= prompt.num_tokens
    if batch:
        yield batch

"""What is held around lm-eval while it runs: random states, processes, the terminal, and the model's logits."""

import contextlib
import io
import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from harness.engines.local.patch import patched
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel


@contextmanager
def watched(loaded: LoadedModel) -> Iterator[None]:
    """Stop at logits that are not numbers: decoding would turn them into text."""

    def check(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        # Minus infinity rules a token out; NaN and infinity compare as false.
        if not bool((output.logits[:, -1] < torch.inf).all()):
            raise InvalidResult(
                "every logit must be a number, got NaN or infinity; the recipe destroys this model, or "
                "the weights are damaged"
            )

    handle = loaded.module.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw everything from one seed, and leave the random states as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def one_process() -> Iterator[None]:
    """Keep lm-eval from resampling in copies of this process, each with the model in it."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        del os.environ["DISABLE_MULTIPROC"]
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect lm-eval's warnings; nothing is printed, and bars are drawn on terminals only."""
    from tqdm.std import tqdm  # type: ignore[import-untyped] # noqa: PLC0415 - comes with lm-eval

    heard: list[str] = []
    ear = logging.Handler(logging.WARNING)
    ear.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log, start = logging.getLogger("lm_eval"), tqdm.__init__
    before = log.level, log.propagate

    def draw(bar: Any, *args: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            options["disable"] = True
        start(bar, *args, **options)

    log.addHandler(ear)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        with patched(tqdm, "__init__", draw), contextlib.redirect_stdout(io.StringIO()):
            yield heard
    finally:
        log.removeHandler(ear)
        log.setLevel(before[0])
        log.propagate = before[1]

"""Context managers around lm-eval: random states, processes and the terminal."""

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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context manager that seeds Python, numpy and torch, and restores their states at its end."""
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
    """Context manager in which lm-eval resamples in this process.

    By default it starts copies of the process, each with the model in it.
    """
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
    """Context manager that collects lm-eval's warnings and prints nothing.

    Progress bars are drawn on a terminal only.
    """
    from tqdm.std import tqdm  # type: ignore[import-untyped] # noqa: PLC0415 - comes with lm-eval

    heard: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log, start = logging.getLogger("lm_eval"), tqdm.__init__
    before = log.level, log.propagate

    def start_on_terminal(bar: Any, *args: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            options["disable"] = True
        start(bar, *args, **options)

    log.addHandler(listener)
    log.setLevel(logging.WARNING)
    log.propagate = False
    tqdm.__init__ = start_on_terminal
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield heard
    finally:
        tqdm.__init__ = start
        log.removeHandler(listener)
        log.setLevel(before[0])
        log.propagate = before[1]

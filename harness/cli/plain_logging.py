"""The logging of the command line, for code that runs without Hydra's own set-up of logging."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from harness.config import CONF
from harness.output.redacted_streams import redact_logs

FILE = CONF / "hydra" / "job_logging" / "plain.yaml"
"""How Hydra sets up logging for a job."""


@contextmanager
def plain_logging() -> Iterator[None]:
    """Context manager: mask secrets in log lines, and show those of this package on standard error.

    A program that has set up logging keeps its handlers and levels: they show the lines.
    """
    settings = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    ours, factory = logging.getLogger("harness"), logging.getLogRecordFactory()
    levels = {name: each["level"] for name, each in settings["loggers"].items()}
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(*settings["formatters"]["plain"].values()))
    if ours.hasHandlers():
        del levels["harness"]
    else:
        ours.addHandler(handler)
    before = {name: logging.getLogger(name).level for name in levels}
    redact_logs()
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, number in before.items():
            logging.getLogger(name).setLevel(number)
        logging.setLogRecordFactory(factory)
        ours.removeHandler(handler)

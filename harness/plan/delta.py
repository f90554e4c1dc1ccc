"""The sizes that a plan is asked about: `delta=0.5pp`, `flip_rate=5%`."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from harness.claims.measure import ACCURACY, KL, LOG_LOSS, Measure
from harness.errors import ConfigError

Units: TypeAlias = Mapping[str, Callable[[float], float]]

NAT: Units = MappingProxyType({"nat": float})
UNITS: Mapping[Measure, Units] = MappingProxyType(
    {
        ACCURACY: MappingProxyType({"pp": lambda points: points / 100}),
        # A perplexity that is higher by a share has a log-loss that is higher by ln(1 + share).
        LOG_LOSS: MappingProxyType({"%": lambda percent: math.log1p(percent / 100), **NAT}),
        KL: NAT,
    }
)
"""Measure -> unit of its differences -> what turns a number into the unit of an item."""


def read_delta(text: str, measure: Measure) -> float:
    """Return a difference in the unit of an item.

    Raises:
        ConfigError: It has no unit, or another one; or it is not above 0, or too large.
    """
    units = UNITS[measure]
    unit = next((unit for unit in units if text.endswith(unit)), "")
    number = _number(text.removesuffix(unit)) if unit else math.nan
    size = units[unit](number) if number > 0 else math.nan
    # Two accuracies differ by 100 pp at most.
    if not 0 < size < math.inf or (measure is ACCURACY and size > 1):
        wanted = " or ".join(f"delta=0.5{each}" for each in units)
        raise ConfigError(
            f"delta must be a difference above 0 with its unit, such as {wanted} for this task, "
            f"got {text!r}; write a number and its unit without a space"
        )
    return size


def read_flip_rate(text: str) -> float:
    """Return a share of the answers.

    Raises:
        ConfigError: It is not a percentage above 0 and up to 100 %.
    """
    number = _number(text.removesuffix("%")) if text.endswith("%") else math.nan
    if not 0 < number <= 100:
        raise ConfigError(
            "flip_rate must be a share of the answers above 0% and up to 100%, such as "
            f"flip_rate=5%, got {text!r}"
        )
    return number / 100


def _number(text: str) -> float:
    """Return a number; NaN for a text that is none, such as 0_5, which Python reads as 5."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan

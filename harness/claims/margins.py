"""Margins: the largest losses that do not matter, such as `accuracy=1pp,perplexity=0.5%`."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from harness.claims.measure import ACCURACY, KL, LOG_LOSS, Measure
from harness.errors import ConfigError
from harness.messages import did_you_mean


class _Spelling(NamedTuple):
    """How the margin of a measure is written."""

    measure: Measure
    unit: str
    convert: Callable[[float], float]
    """Turns the number into the unit of an item of the measure."""


SPELLINGS: Mapping[str, _Spelling] = MappingProxyType(
    {
        "accuracy": _Spelling(ACCURACY, "pp", lambda points: points / 100),
        # A perplexity that is higher by a share has a log-loss that is higher by ln(1 + share).
        "perplexity": _Spelling(LOG_LOSS, "%", lambda percent: math.log1p(percent / 100)),
        "log_loss": _Spelling(LOG_LOSS, "", float),
        "kl": _Spelling(KL, "", float),
    }
)
"""Name of a margin -> its spelling; `log_loss` and `kl` are in nat per token."""

HELP = (
    "largest loss that does not matter, such as accuracy=1pp,perplexity=0.5%%,kl=0.01; of "
    + ", ".join(SPELLINGS)
)
"""The option --margin in the help of a command."""


def names_of(measures: Iterable[Measure | None]) -> str:
    """Return the names that margins of measures have, such as `perplexity, log_loss`."""
    wanted = set(measures)
    return ", ".join(name for name, each in SPELLINGS.items() if each.measure in wanted) or "none"


def in_one_line(text: str) -> str:
    """Return margins as they are written into a file: without spaces."""
    return "".join(text.split())


def read_margins(text: str) -> dict[Measure, float]:
    """Return the margin of each measure that is named.

    Raises:
        ConfigError: A name is unknown, a measure is named twice, a unit is another one, or a number
            is not above 0.
    """
    margins: dict[Measure, float] = {}
    for word in filter(None, text.split(",")):
        name, _, value = word.strip().partition("=")
        if name not in SPELLINGS:
            meant = did_you_mean(name, SPELLINGS, "{}")
            raise ConfigError(f"a margin must be of {', '.join(SPELLINGS)}, got {name}{meant}")
        spelling = SPELLINGS[name]
        if spelling.measure in margins:
            raise ConfigError(f"a margin must be given once for each measure, got {text}")
        margins[spelling.measure] = spelling.convert(_number(name, value, spelling.unit))
    if text and not margins:
        raise ConfigError(f"a margin must be like accuracy=1pp, got {text!r}")
    return margins


def _number(name: str, value: str, unit: str) -> float:
    wanted = f"--margin {name} must be a number above 0 like {name}=0.5{unit}, got {value!r}"
    # `1%` of an accuracy could mean 1 pp or 1 % of it.
    if unit and not value.endswith(unit):
        raise ConfigError(wanted)
    try:
        # Python reads 0_5 as 5; whoever types it means 0.5.
        found = math.nan if "_" in value else float(value.removesuffix(unit))
    except ValueError as reason:
        raise ConfigError(wanted) from reason
    if not 0 < found < math.inf:
        raise ConfigError(wanted)
    if unit == "pp" and found >= 100:
        raise ConfigError(f"{wanted}; no accuracy falls by 100pp or more")
    return found

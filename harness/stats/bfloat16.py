"""Numbers that a bfloat16 can hold: 8 significant bits, so that 1 is 1/128 from the next."""

from typing import Any

import numpy as np


def bf16(values: Any) -> Any:
    """Return the bfloat16 nearest to each number, ties to even; a number for a number."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)[()]

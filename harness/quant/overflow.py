"""Finite numbers that a format cannot hold.

Elements overflow as their standards say: bf16 rounds the largest float32 to infinity, HiF8 has infinity from 40,960 on. Scales that are
rounded up overflow too: 65504, the largest float16, becomes 65536 in MXFP4 with `rceil`, which float16 does not hold. Formats
stay so, bit for bit. But a tensor whose numbers would become infinity or NaN is refused: a mean error does not show them, and a model
may hide them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.errors import InvalidResult


class FormatOverflow(InvalidResult, ValueError):  # noqa: N818 - named for what happened
    """A finite tensor has numbers that become infinity or NaN in a format."""


def refuse_overflow(x: Tensor, values: Tensor, name: str, whole: Tensor | None = None) -> None:
    """Check that the numbers of a finite tensor stay finite.

    A tensor that has infinity or NaN to begin with is not checked: they pass on to all that share a scale with them.

    Args:
        x: Some numbers.
        values: What a format makes of them, in the type that they are kept in; same shape.
        name: Name of the format.
        whole: The tensor that `x` is a piece of; None is `x`.

    Raises:
        FormatOverflow: Some do not.
    """
    if values.is_meta or all_finite(values) or not all_finite(x if whole is None else whole):
        return
    lost = ~values.isfinite()
    given, made = x[lost][0].item(), values[lost][0].item()
    kept = str(values.dtype).removeprefix("torch.")
    raise FormatOverflow(
        f"{name} must hold every number as a finite {kept}, got {given:g}, which becomes {made:g}, one of {int(lost.sum())} such; "
        "choose a format with a wider range, or a type with one (model.dtype)"
    )


def all_finite(x: Tensor) -> bool:
    """Say whether no element is NaN or infinity; twenty times as fast as `x.isfinite().all()` on a CPU."""
    # Both ends are NaN if any element is.
    return x.numel() == 0 or all(
        map(math.isfinite, torch.stack(torch.aminmax(x.detach())).tolist())
    )


@contextmanager
def overflow_in(place: str) -> Iterator[None]:
    """Context manager that adds to a FormatOverflow where it happened."""
    try:
        yield
    except FormatOverflow as reason:
        raise FormatOverflow(f"{reason} ({place})") from reason

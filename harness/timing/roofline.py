"""What a phase must move and compute at least, from the shape of the model.

Decoding one token for each of B sequences, of which each sees `s` positions:

    bytes     = W + B E + B KV(s)           W: matrices that are multiplied, the head among them, as they are stored with
                                            scales; E: one row of the embedding
    KV(s)     = sum over layers of 2 n_kv d min(s, window) b                b: bytes of a key's number
    products  = 2 B (N_body + N_head)                                       N: weights that are multiplied
    attention = sum over layers of 4 B n_head d min(s, window)

Prefilling S tokens each: every product but the head's S times, the head once (only the last position is needed), and attention over
`1 .. S` positions. Activations are left out: they stay in caches.

    MBU = bytes / (time of a step * bandwidth)              model bandwidth utilization
    MFU = least time of the operations / time               model FLOP utilization; the least time of each product is at
                                                            the peak of the type that it was multiplied in

(the terms of Databricks, "LLM inference performance engineering", 2023, and of PaLM, arXiv 2204.02311.) What an
implementation does beyond that (padding, copies, products in parts) counts against it. Above 1 is impossible: then work was not
waited for, or the peak is not the peak.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from harness.errors import InvalidResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What of a model decides its costs."""

    body_weights: int
    """Weights of linear layers without the head."""
    head_weights: int
    windows: tuple[int | None, ...]
    """For each layer how many positions a token sees at most; None is all."""
    heads: int
    kv_heads: int
    head_dim: int
    kv_itemsize: int
    """Size of a number of a key or value [byte]."""
    row_bytes: int
    """Size of a row of the embedding [byte]."""

    def seen(self, context: int) -> int:
        """Return the positions that a token sees with `context` positions there, summed over layers."""
        return sum(min(context, window or context) for window in self.windows)

    def kv_bytes(self, context: int) -> int:
        """Return the size of the keys and values that one sequence reads [byte]."""
        return 2 * self.kv_heads * self.head_dim * self.kv_itemsize * self.seen(context)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a phase costs at least."""

    num_bytes: float
    products: float
    """Operations of linear layers; a multiplication and an addition are two."""
    attention: float
    """Operations of attention."""


def step(shape: Shape, streamed: int, batch: int, context: int) -> Cost:
    """Return the cost of one token for each sequence.

    Args:
        shape: The model's.
        streamed: Size of the matrices that are multiplied, as stored [byte].
        batch: Sequences.
        context: Positions that the token sees, its own included.
    """
    return Cost(
        num_bytes=streamed + batch * (shape.row_bytes + shape.kv_bytes(context)),
        products=2.0 * batch * (shape.body_weights + shape.head_weights),
        attention=4.0 * batch * shape.heads * shape.head_dim * shape.seen(context),
    )


def decode(shape: Shape, streamed: int, batch: int, prompt: int, new_tokens: int) -> Cost:
    """Return the mean cost of the steps after prefill: they see `prompt + 1` to `prompt + new_tokens - 1` positions."""
    steps = [
        step(shape, streamed, batch, context) for context in range(prompt + 1, prompt + new_tokens)
    ]
    return Cost(
        num_bytes=fmean(each.num_bytes for each in steps),
        products=steps[0].products,
        attention=fmean(each.attention for each in steps),
    )


def prefill(shape: Shape, streamed: int, batch: int, prompt: int) -> Cost:
    """Return the cost of the prompts, up to the first new token."""
    seen = sum(shape.seen(context) for context in range(1, prompt + 1))
    return Cost(
        num_bytes=streamed + batch * (prompt * shape.row_bytes + shape.kv_bytes(prompt)),
        products=2.0 * batch * (shape.body_weights * prompt + shape.head_weights),
        attention=4.0 * batch * shape.heads * shape.head_dim * seen,
    )


def least_seconds(
    cost: Cost, work: Mapping[str, float], peaks: Mapping[str, float], attention: str
) -> float:
    """Return the time of the operations at the peaks [s].

    Args:
        cost: The operations.
        work: Type -> share of the products, in any unit.
        peaks: Type -> operations a second.
        attention: Type of attention.
    """
    total = sum(work.values())
    products = sum(cost.products * part / total / peaks[dtype] for dtype, part in work.items())
    return products + cost.attention / peaks[attention]


def possible(name: str, value: float) -> float:
    """Return a utilization, which cannot be above 1.

    Raises:
        InvalidResult: It is.
    """
    if value > 1:
        raise InvalidResult(
            f"{name} must be at most 1, got {value:.3g}: the device was not waited for, or what was measured as its peak "
            "is too low because the machine was busy; repeat the run on an idle machine"
        )
    return value

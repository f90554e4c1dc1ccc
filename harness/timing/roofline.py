"""Least bytes and operations of a phase, from the shape of the model; utilization of the machine.

Decoding one token for each of B sequences, each of which attends to `s` positions:

    bytes     = W + B E + B KV(s)           W: matrices as stored, with scales and LM head
                                            E: one row of the embedding
    KV(s)     = sum over layers of 2 n_kv d min(s, window) b       b: bytes of a number of a key
    matmul    = 2 B (N_body + N_head)                                       N: number of weights
    attention = sum over layers of 4 B n_head d min(s, window)

Prefilling S tokens of each sequence: the matmuls of the body run S times, the LM head once (only
the last position is needed), and attention covers `1 .. S` positions. Activations do not count,
because they stay in caches.

    MBU = bytes / (time of a step * bandwidth)              model bandwidth utilization
    MFU = least time of the operations / time               model FLOP utilization; a matmul takes
                                                            the least time at the peak of its type

(terms of Databricks, "LLM inference performance engineering", 2023, and of PaLM, arXiv 2204.02311.)
Work beyond this least (padding, copies, matmuls in parts) lowers the utilization. A utilization
above 1 is impossible: then the clock did not wait for the device, or the measured peak is too low.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from harness.errors import InvalidResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of a model that decide its costs."""

    body_weights: int
    """Number of weights of all linear layers but the LM head."""
    head_weights: int
    windows: tuple[int | None, ...]
    """Largest number of positions that a token attends to, for each layer; None is all."""
    heads: int
    kv_heads: int
    head_dim: int
    kv_itemsize: int
    """Size of one number of a key or value [byte]."""
    row_bytes: int
    """Size of one row of the embedding [byte]."""

    def attended(self, context: int) -> int:
        """Return the positions that a token attends to out of `context`, summed over layers."""
        return sum(min(context, window or context) for window in self.windows)

    def kv_bytes(self, context: int) -> int:
        """Return the size of the keys and values that one sequence reads [byte]."""
        return 2 * self.kv_heads * self.head_dim * self.kv_itemsize * self.attended(context)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCost:
    """The least work of a phase."""

    num_bytes: float
    """Memory that is read [byte]."""
    matmul: float
    """Operations of linear layers; one multiply-add is two."""
    attention: float
    """Operations of attention."""


def step(shape: Shape, streamed: int, batch: int, context: int) -> PhaseCost:
    """Return the cost of decoding one token for each sequence.

    Args:
        shape: Shape of the model.
        streamed: Size of the matrices of the linear layers, as stored [byte].
        batch: Number of sequences.
        context: Positions that the token attends to, its own included.
    """
    return PhaseCost(
        num_bytes=streamed + batch * (shape.row_bytes + shape.kv_bytes(context)),
        matmul=2.0 * batch * (shape.body_weights + shape.head_weights),
        attention=4.0 * batch * shape.heads * shape.head_dim * shape.attended(context),
    )


def decode(shape: Shape, streamed: int, batch: int, prompt: int, new_tokens: int) -> PhaseCost:
    """Return the mean cost of the decode steps, at `prompt + 1` .. `prompt + new_tokens - 1`."""
    steps = [
        step(shape, streamed, batch, context) for context in range(prompt + 1, prompt + new_tokens)
    ]
    return PhaseCost(
        num_bytes=fmean(each.num_bytes for each in steps),
        matmul=steps[0].matmul,
        attention=fmean(each.attention for each in steps),
    )


def prefill(shape: Shape, streamed: int, batch: int, prompt: int) -> PhaseCost:
    """Return the cost of prefill, the first new token included."""
    attended = sum(shape.attended(context) for context in range(1, prompt + 1))
    return PhaseCost(
        num_bytes=streamed + batch * (prompt * shape.row_bytes + shape.kv_bytes(prompt)),
        matmul=2.0 * batch * (shape.body_weights * prompt + shape.head_weights),
        attention=4.0 * batch * shape.heads * shape.head_dim * attended,
    )


def least_seconds(
    cost: PhaseCost, work: Mapping[str, float], peaks: Mapping[str, float], attention: str
) -> float:
    """Return the time that the operations take at the peaks [s].

    Args:
        cost: The operations.
        work: Type -> its part of the matmuls, in any unit.
        peaks: Type -> operations per second.
        attention: The type of attention.
    """
    total = sum(work.values())
    matmul = sum(cost.matmul * part / total / peaks[dtype] for dtype, part in work.items())
    return matmul + cost.attention / peaks[attention]


def possible(name: str, value: float) -> float:
    """Return a utilization after checking that it is at most 1.

    Raises:
        InvalidResult: It is above 1.
    """
    if value > 1:
        raise InvalidResult(
            f"{name} must be at most 1, got {value:.3g}: the clock did not wait for the device, or "
            "the measured peak is too low because the machine was busy; "
            "repeat the run on an idle machine"
        )
    return value

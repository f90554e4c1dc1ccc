"""Utilization of the machine: `harness.timing.roofline` for the model in memory.

Bytes and operations follow from the shape of the model and its weights as stored. Bandwidth and
peaks are measured on this device (`harness.machine.peaks`), for the size that is streamed and the
types that are multiplied. A model whose costs do not follow from its shape (a mixture of experts, a
recurrent layer) has no utilization; the note of the metric gives the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from harness.machine import peaks as machine
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_targets, find_unreachable, num_unused, output_layer
from harness.results.formatting import si
from harness.tasks.throughput.subject import LABELS, Requests, Subject
from harness.timing import roofline
from harness.timing.roofline import Shape

ATTENTION_KINDS = ("full_attention", "sliding_attention")
MOST_TRIES = 3
"""Number of measurements of the machine before a utilization above 1 is an error."""


class NoRoofline(Exception):  # noqa: N818 - a reason, not a failure
    """The costs of a model do not follow from its shape; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utilization:
    """Shares of the peaks of the machine."""

    mbu: float | None
    """Share of the bandwidth, in decode."""
    mbu_note: str
    mfu: float | None
    """Share of the arithmetic, in prefill."""
    mfu_note: str


def shape_of(loaded: LoadedModel) -> Shape:
    """Return the sizes that decide the costs of a model.

    Raises:
        NoRoofline: Its costs do not follow from its shape.
    """
    module, config = loaded.module, loaded.module.config.get_text_config()
    linear = _linear_layers(module)
    _check_shape(module, config, linear)
    sizes = {id(layer): layer.in_features * layer.out_features for layer in linear.values()}
    head = sizes.get(id(output_layer(module)), 0)
    heads = int(config.num_attention_heads)
    return Shape(
        body_weights=sum(sizes.values()) - head,
        head_weights=head,
        windows=_windows(config),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        kv_itemsize=loaded.dtype.itemsize,
        row_bytes=int(config.hidden_size) * loaded.dtype.itemsize,
    )


def _check_shape(module: PreTrainedModel, config: Any, linear: Mapping[str, Any]) -> None:
    """Raise NoRoofline for a model with parts other than attention and linear layers."""
    if stacks := [each.name for each in find_targets(module) if each.weight.dim() == 3]:
        raise NoRoofline(f"which experts a step reads depends on its tokens ({stacks[0]})")
    if getattr(config, "num_attention_heads", None) is None:
        raise NoRoofline("it has no attention")
    bare = [
        t.name for t in find_targets(module) if t.weight.dim() == 2 and t.alias != "embed_tokens"
    ]
    for name in (*find_unreachable(module), *bare):
        if not any(f"{name}.".startswith(f"{path}.") for path in linear):
            raise NoRoofline(f"{name} is not the weight of a linear layer")
    if num_unused(module):
        raise NoRoofline("parts of the model are not used by a text run")


def _linear_layers(module: nn.Module) -> dict[str, Any]:
    """Return the outermost modules that have widths: `nn.Linear`, and the layers of libraries."""
    found: dict[str, Any] = {}
    for path, layer in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and not inside:
            found[path] = layer
    return found


def _windows(config: Any) -> tuple[int | None, ...]:
    """Return the number of positions that each layer attends to; None is all."""
    num_layers: int = config.num_hidden_layers
    window: int | None = getattr(config, "sliding_window", None)
    kinds: list[str] | None = getattr(config, "layer_types", None)
    if kinds is None:
        slides = getattr(config, "use_sliding_window", True)
        return (window if slides else None,) * num_layers
    if unknown := set(kinds) - set(ATTENTION_KINDS):
        raise NoRoofline(f"the cost of layers of kind {min(unknown)} is not known here")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def streamed_bytes(loaded: LoadedModel) -> int:
    """Return the memory that a decode step reads: all weights in place but the embedding [byte].

    The embedding counts if an LM head is tied to it.
    """
    return stored_bytes(loaded.module, without=(loaded.module.get_input_embeddings(),))


def utilizations(
    loaded: LoadedModel, subjects: Sequence[Subject], requests: Mapping[str, Requests]
) -> dict[str, Utilization]:
    """Return the utilization of each subject by its name.

    Raises:
        InvalidResult: A utilization is above 1.
    """
    try:
        shape = shape_of(loaded)
    except NoRoofline as reason:
        absent = Utilization(mbu=None, mbu_note=str(reason), mfu=None, mfu_note=str(reason))
        return {subject.name: absent for subject in subjects}
    dtype = loaded.dtype_name
    return {
        subject.name: _utilization(shape, subject, requests[subject.name], loaded.device, dtype)
        for subject in subjects
    }


def _utilization(
    shape: Shape, subject: Subject, requests: Requests, device: torch.device, dtype: str
) -> Utilization:
    mbu, mbu_note = _mbu(shape, subject, requests, device)
    mfu, mfu_note = _mfu(shape, subject, requests, device, dtype)
    return Utilization(mbu=mbu, mbu_note=mbu_note, mfu=mfu, mfu_note=mfu_note)


def _mbu(
    shape: Shape, subject: Subject, requests: Requests, device: torch.device
) -> tuple[float | None, str]:
    size = requests.size
    cost = roofline.decode(shape, subject.streamed_bytes, size.batch, size.prompt, size.new)
    achieved = cost.num_bytes * size.steps / median(requests.decode_s)
    read = machine.read_bandwidth(int(cost.num_bytes))
    try:
        value, peaks = _measured(
            device, [read, machine.COPY], lambda peaks: achieved / max(peaks.values())
        )
    except RuntimeError as reason:
        return None, f"bandwidth could not be measured: {reason}"
    note = (
        f"{si(cost.num_bytes)}B a step, {si(achieved)}B/s; measured here: {si(peaks[read])}B/s "
        f"reading as many bytes again and again, {si(peaks[machine.COPY])}B/s copying"
    )
    return roofline.possible(f"decode_mbu of the {LABELS[subject.name]}", value), note


def _mfu(
    shape: Shape, subject: Subject, requests: Requests, device: torch.device, dtype: str
) -> tuple[float | None, str]:
    size, seen = requests.size, subject.matmuls["prefill"]
    work = seen.work
    # The attention kernel of CPUs takes 16-bit operands and computes in float32: the faster counts.
    attends = (dtype, "float32") if device.type == "cpu" else (dtype,)
    types = sorted({*attends, *work})
    if not work or (unknown := [name for name in types if name not in machine.MATMUL_TYPES]):
        return (
            None,
            f"the peak of matmuls in {unknown[0] if work else 'unknown types'} is not known",
        )
    cost = roofline.prefill(shape, subject.streamed_bytes, size.batch, size.prompt)
    seconds = median(requests.prefill_s)

    def used(peaks: Mapping[str, float]) -> float:
        by_type = {name: peaks[machine.matmul(name)] for name in types}
        attention = max(attends, key=by_type.__getitem__)
        return roofline.least_seconds(cost, work, by_type, attention=attention) / seconds

    try:
        value, peaks = _measured(device, [machine.matmul(name) for name in types], used)
    except RuntimeError as reason:
        return None, f"the peak could not be measured: {reason}"
    total = sum(work.values())
    parts = ", ".join(
        f"{work.get(name, 0) / total:.0%} of matmuls in {name} "
        f"({si(peaks[machine.matmul(name)])}op/s)"
        for name in sorted(types, key=lambda name: -work.get(name, 0))
    )
    kernels = ", ".join(seen.kernels)
    note = f"{si(cost.matmul + cost.attention)} operations; {parts}, measured here; {kernels}"
    return roofline.possible(f"prefill_mfu of the {LABELS[subject.name]}", value), note


def _measured(
    device: torch.device, questions: list[str], use: Callable[[Mapping[str, float]], float]
) -> tuple[float, Mapping[str, float]]:
    """Return a utilization and the peaks.

    A busy machine gives peaks that are too low: if the utilization is above 1, measure them again.
    """
    peaks = machine.peaks(device, questions)
    for _ in range(MOST_TRIES - 1):
        if use(peaks) <= 1:
            break
        peaks = machine.peaks(device, questions, again=True)
    return use(peaks), peaks

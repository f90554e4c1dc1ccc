"""Logits in float32, whatever the type of the model.

bf16 logits near 20 have steps of 0.125: one answer in ten then ties with another, and the loss of a window moves in
steps of up to 0.8 %, more than INT8 costs. So while a score is taken, the last matrix product runs in float32 on the
float32 copies of hidden state and head weight. The model's own code around it (soft caps, scaling) then works on
float32 too, and its `.logits` are float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.targets import output_layer


@contextmanager
def float32_logits(module: PreTrainedModel) -> Iterator[None]:
    """Make `module(...).logits` float32, computed in float32 from the last hidden state on.

    Raises:
        ModelError: The model has no linear output layer to compute in float32.
    """
    head = output_layer(module)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"the output layer of the model must be a linear one, got {type(head).__name__}; "
            "scores of this architecture are not defined here"
        )
    weight = head.weight.detach().float()
    bias: Tensor | None = head.bias
    bias = None if bias is None else bias.detach().float()

    def forward(hidden: Tensor) -> Tensor:
        return F.linear(hidden.float(), weight, bias)

    # An attribute of the instance hides the method of the class until it is deleted.
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        with torch.inference_mode():
            yield
    finally:
        del head.forward

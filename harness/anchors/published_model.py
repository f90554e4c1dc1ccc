"""The published model that a record is of, and whether it has the published weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from harness.results.record import FLOAT_CHECKPOINT, ModelInfo

MADE_OF: Mapping[str, str] = MappingProxyType(
    {
        # The GGUF file of model=smollm2_135m; a test compares it with the model's source.
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53": (
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    }
)
"""Fingerprint of weights that were made from a published model -> its name on the hub."""


class PublishedModel(NamedTuple):
    """A model of the hub."""

    name: str
    """`owner/name`."""
    is_exact: bool
    """Whether the weights are the published ones. Dequantized weights are others."""


def published_model(model: ModelInfo) -> PublishedModel | None:
    """Return the model that weights are published as; None for random weights."""
    if model.weights == "random":
        return None
    return PublishedModel(
        name=MADE_OF.get(model.fingerprint, model.name), is_exact=model.origin == FLOAT_CHECKPOINT
    )

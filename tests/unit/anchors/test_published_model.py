"""Which published model a record is of."""

from published import run

from harness.anchors.published_model import MADE_OF, published_model
from harness.models.sources.embedded import GGUF_SHA256, MEMBER
from harness.results.record import ModelInfo


def model(**changes: object) -> ModelInfo:
    found = run(model=changes).model
    assert found is not None
    return found


def test_the_default_model_is_a_conversion_of_the_published_one() -> None:
    name = MADE_OF[GGUF_SHA256]
    assert name.rpartition("/")[2] in MEMBER
    assert published_model(model(fingerprint=GGUF_SHA256, origin="dequantized GGUF")) == (
        name,
        False,
    )


def test_only_float_weights_of_the_hub_are_exactly_the_published_ones() -> None:
    assert published_model(model()) == ("org/model", True)
    folder = "float checkpoint, from a folder given by the user"
    assert published_model(model(origin=folder)) == ("org/model", False)
    assert published_model(model(weights="random")) is None

"""Find the unquantized model that a model is compared with.

Every comparison asks `find` for a `Baseline`, so that no model is compared with itself by accident:

    model.baseline is given         a second model in memory, asked the same token ids
    a recipe changed the model      the model without its recipe: original parameters back in place,
                                    activations not rounded
    no recipe, unquantized model    the model itself: every difference is 0 by definition, and the
                                    record says so
    quantized checkpoint or GGUF    UnsupportedRecipe: there are no unquantized weights to compare
    file, no model.baseline         with

`unquantized` is for comparisons of a model with itself: an unquantized model or a recipe stands for
itself there, even if `model.baseline` is given.
"""

from typing import TYPE_CHECKING, Literal

from harness.engines.base import Baseline
from harness.errors import ModelError, UnsupportedRecipe
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.results.record import BaselineInfo

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine

FLAG = (
    "add the unquantized model it was made of: +model@model.baseline=hub "
    "model.baseline.repo=OWNER/NAME, +model@model.baseline=local model.baseline.path=FOLDER, or "
    "+model@model.baseline=NAME of a file in conf/model"
)


def find(engine: "LocalEngine", task: str) -> Baseline:
    """Return the baseline of a model, by the table of the module; `model.baseline` is loaded.

    Raises:
        UnsupportedRecipe: The model came quantized, and nothing says what it was made of.
        ModelError: `model.baseline` cannot be compared with the model.
    """
    return unquantized(engine, task) if engine.loaded.baseline is None else _second_model(engine)


def unquantized(engine: "LocalEngine", task: str) -> Baseline:
    """Return the unquantized form of a model: its own weights, if it has them.

    Raises:
        UnsupportedRecipe: The model came quantized, and nothing says what it was made of.
        ModelError: `model.baseline` cannot be compared with the model.
    """
    loaded = engine.loaded
    if loaded.swaps or loaded.hooks:
        return Baseline(
            engine=engine.of(loaded, within=loaded.unquantized),
            info=_info(loaded, "own float weights"),
        )
    if not loaded.came_quantized:
        return _itself(engine)
    if loaded.baseline is not None:
        return _second_model(engine)
    raise UnsupportedRecipe(
        f"{task} compares with an unquantized model, got a {loaded.origin}, which would be "
        f"compared with itself; {FLAG}"
    )


def _itself(engine: "LocalEngine") -> Baseline:
    """Return a model that no recipe has changed as its own baseline."""
    return Baseline(
        engine=engine,
        info=_info(engine.loaded, "itself"),
        warnings=(
            f"quant=none changes nothing: {engine.name} was compared with itself, and every "
            "difference is 0 by definition",
        ),
    )


def _second_model(engine: "LocalEngine") -> Baseline:
    """Load `model.baseline`; return it as the baseline of a model.

    Raises:
        ModelError: It cannot be compared with the model.
    """
    loaded = engine.loaded
    base = cache.load_baseline(loaded)
    assert base is not None  # noqa: S101 - both callers have checked that there is one
    _check_comparable(loaded, base)
    warnings = base.warnings
    if base.dtype is not loaded.dtype:
        warnings += (
            f"the model was run in {loaded.dtype_name} and its baseline in {base.dtype_name}: "
            "rounding to the narrower type is in every difference; "
            f"set model.baseline.dtype={loaded.dtype_name} to leave it out",
        )
    return Baseline(engine=engine.of(base), info=_info(base, "second model"), warnings=warnings)


def _check_comparable(loaded: LoadedModel, base: LoadedModel) -> None:
    """Check that the one model could be made of the other."""
    unchanged = not loaded.swaps and not loaded.hooks
    if unchanged and base.fingerprint == loaded.fingerprint:
        raise ModelError(
            "model.baseline must be another model than the one that is measured, got "
            f"{base.name} for both; {FLAG}"
        )
    if base.came_quantized:
        raise ModelError(
            f"model.baseline must be an unquantized model, got {base.name}, a {base.origin}; {FLAG}"
        )
    if base.weights != loaded.weights:
        raise ModelError(
            f"model.baseline must have weights={loaded.weights} as the model has, got "
            f"{base.weights}"
        )
    own, other = loaded.vocab_size, base.vocab_size
    if own != other:
        raise ModelError(
            f"model.baseline must have the vocabulary of the model ({own} tokens) to be compared "
            f"token by token, got {base.name} with {other}; "
            "name the unquantized model it was made of"
        )
    if (size := _size(loaded)) != (other_size := _size(base)):
        raise ModelError(
            f"model.baseline must have the sizes of the model that was made of it ({size}), got "
            f"{base.name} with {other_size}; {FLAG}"
        )


def _size(loaded: LoadedModel) -> str:
    """Return depth and width of a model in words; no quantization changes them."""
    config = loaded.module.config.get_text_config()
    # A few classes have other names for them, and are compared by vocabulary alone.
    depth, width = (getattr(config, name, "?") for name in ("num_hidden_layers", "hidden_size"))
    return f"{depth} layers of width {width}"


def _info(
    loaded: LoadedModel, relation: Literal["own float weights", "second model", "itself"]
) -> BaselineInfo:
    return BaselineInfo(
        relation=relation,
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        revision=loaded.revision,
        origin=loaded.origin,
        dtype=loaded.dtype_name,
    )

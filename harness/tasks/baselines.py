"""Find the unquantized model that a model is compared with.

Every comparison asks `find` for a `Baseline`, so that no model is compared with itself by accident:

    model.baseline is given         a second model in memory, asked the same token ids
    a recipe changed the model      the model without its recipe: original parameters back in place,
                                    activations not rounded
    no recipe, unquantized model    the model itself: every difference is 0 by definition, and the
                                    record says so
    quantized checkpoint or GGUF    UnsupportedRecipe: there are no unquantized weights to compare
    file, no model.baseline         with
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

from harness.data.source import Text
from harness.engines.local.split_model import SplitModel, split
from harness.errors import ModelError, UnsupportedRecipe
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.tokens import hash_token_ids, tokenize
from harness.results.record import BaselineInfo
from harness.tasks.windows import check_length

Become = Callable[[], AbstractContextManager[None]]
"""Makes a context manager in which a loaded model has other weights."""
FLAG = (
    "add the unquantized model it was made of: +model@model.baseline=hub "
    "model.baseline.repo=OWNER/NAME, +model@model.baseline=local model.baseline.path=FOLDER, or "
    "+model@model.baseline=NAME of a file in conf/model"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The unquantized model that a model is compared with; made by `find`."""

    loaded: LoadedModel
    within: Become
    """Context manager in which `loaded` has its unquantized weights."""
    info: BaselineInfo
    warnings: tuple[str, ...] = ()

    @property
    def is_itself(self) -> bool:
        """The model is its own baseline, so every difference is 0."""
        return self.info.relation == "itself"

    @contextmanager
    def split(self, measured: SplitModel) -> Iterator[SplitModel]:
        """Context manager that splits the baseline; reuses the split of the measured model."""
        if self.loaded is measured.loaded:
            yield measured
        else:
            with split(self.loaded) as own:
                yield own

    def check_text(self, loaded: LoadedModel, text: Text, window: int) -> None:
        """Check that both models can be asked the same tokens.

        Raises:
            ModelError: Their tokenizers give other ids for the text.
            DataError: A window is longer than the baseline was made for.
        """
        if self.loaded is loaded:
            return
        if _ids_sha256(self.loaded, text) != _ids_sha256(loaded, text):
            raise ModelError(
                "model.baseline must have the tokenizer of the model to be compared token by "
                f"token, but {self.loaded.name} gives other token ids than {loaded.name} for the "
                f"text {text.name}; name the unquantized model it was made of"
            )
        check_length(window, self.loaded)


def find(loaded: LoadedModel, task: str) -> Baseline:
    """Return the baseline of a model, as the table of the module says; loads `model.baseline`.

    Raises:
        UnsupportedRecipe: The model came quantized, and nothing says what it was made of.
        ModelError: `model.baseline` cannot be compared with the model.
    """
    if loaded.baseline is not None:
        return _second_model(loaded)
    if loaded.swaps or loaded.hooks:
        return without_recipe(loaded)
    if loaded.came_quantized:
        raise UnsupportedRecipe(
            f"{task} compares with an unquantized model, got a {loaded.origin}, which would be "
            f"compared with itself; {FLAG}"
        )
    return itself(loaded)


def without_recipe(loaded: LoadedModel) -> Baseline:
    """Return the unquantized weights inside a model that a recipe has changed.

    Raises:
        ModelError: No recipe has changed it.
    """
    if not loaded.swaps and not loaded.hooks:
        raise ModelError(
            f"a recipe must have changed {loaded.name} to be compared with its unquantized "
            "weights, got the weights as they were loaded"
        )
    return Baseline(
        loaded=loaded, within=loaded.unquantized, info=_info(loaded, "own float weights")
    )


def itself(loaded: LoadedModel) -> Baseline:
    """Return a model that no recipe has changed as its own baseline."""
    return Baseline(
        loaded=loaded,
        within=nullcontext,
        info=_info(loaded, "itself"),
        warnings=(
            f"quant=none changes nothing: {loaded.name} was compared with itself, and every "
            "difference is 0 by definition",
        ),
    )


def _second_model(loaded: LoadedModel) -> Baseline:
    """Load `model.baseline`; return it as the baseline of a model.

    Raises:
        ModelError: It cannot be compared with the model.
    """
    base = cache.load_baseline(loaded)
    assert base is not None  # noqa: S101 - `find` has checked that there is one
    _check_comparable(loaded, base)
    warnings = base.warnings
    if base.dtype is not loaded.dtype:
        warnings += (
            f"the model was run in {loaded.dtype_name} and its baseline in {base.dtype_name}: "
            "rounding to the narrower type is in every difference; "
            f"set model.baseline.dtype={loaded.dtype_name} to leave it out",
        )
    return Baseline(
        loaded=base, within=nullcontext, info=_info(base, "second model"), warnings=warnings
    )


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


def _vocabulary(loaded: LoadedModel) -> int:
    """Return the number of tokens that a model has logits for."""
    return int(loaded.module.config.get_text_config().vocab_size)


def _size(loaded: LoadedModel) -> str:
    """Return depth and width in words; no quantization changes them."""
    config = loaded.module.config.get_text_config()
    # A few classes have other names for them, and are compared by vocabulary alone.
    depth, width = (getattr(config, name, "?") for name in ("num_hidden_layers", "hidden_size"))
    return f"{depth} layers of width {width}"


def _ids_sha256(loaded: LoadedModel, text: Text) -> str:
    return loaded.cached(
        ("hash of token ids", text.sha256),
        lambda: hash_token_ids([tokenize(text.text, loaded).ids]),
    )


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

"""lm-eval's own model around a loaded one, as the independent side of a comparison."""

from lm_eval.models.huggingface import HFLM

from harness.models.loaded import LoadedModel


def hflm(loaded: LoadedModel, max_length: int) -> HFLM:
    """HFLM in float32, one sequence at a time; its cache of logits scores some requests wrongly."""
    return HFLM(
        pretrained=loaded.module,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        batch_size=1,
        softmax_dtype="float32",
        logits_cache=False,
    )

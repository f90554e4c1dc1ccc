"""lm-eval's own model around a loaded one, as the independent side of a comparison."""

from lm_eval.models.huggingface import HFLM

from harness.models.loaded import LoadedModel


def hflm(loaded: LoadedModel, max_length: int, softmax_dtype: str = "float32") -> HFLM:
    """HFLM, one sequence at a time; its cache of logits scores some requests wrongly.

    On CPUs torch's float32 log-softmax is too high by about 1e-5 nat a token.
    """
    return HFLM(
        pretrained=loaded.module,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        batch_size=1,
        softmax_dtype=softmax_dtype,
        logits_cache=False,
    )

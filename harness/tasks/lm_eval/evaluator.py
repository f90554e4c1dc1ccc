"""Wrap a loaded model for lm-eval, and run tasks with it.

Some defaults of lm-eval change what a quantized model scores. They are set so:

- *Precision.* By default log-softmax and sums have the model's dtype: a bfloat16 window of 1024
  tokens is off by up to 0.016 nat a token, more than INT8 costs. Here logits
  (`harness.engines.local.split_model`) and log-softmax are float32.
- *Special tokens.* A prompt begins as the tokenizer begins a text. An EOS that the tokenizer
  appends is left off, because it would stand between the prompt and its answer. A rolling text is
  encoded without BOS: lm-eval puts one before it as context, and would score a second one.
- *Context length.* Perplexities depend on it. It is always passed, and part of the protocol.
- *Weights.* lm-eval calls `tie_weights()` on a model it is given, which could put the unquantized
  embedding over a quantized head. Here that call does nothing.
- *Tokenizer.* lm-eval may choose another padding token, so it works on a copy.
- *Answer cache.* lm-eval keys it by the prompt alone and would give one recipe the answers of
  another. It is off.
- *Shared logits.* Requests with the same tokens up to the last share a forward pass. If they are
  split into prompt and continuation at different places, lm-eval 0.4.13 scores the shorter
  continuation at the wrong positions. Such requests do not share.
- *NaN.* lm-eval takes the first of four NaN for the most likely answer. Here a logit
  (`guards.watched`) or log-probability (`results`) that is not a number ends the run.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from harness.engines.local.patch import patched
from harness.errors import ConfigError, InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.tokens import check_rows, without_suffix
from harness.tasks.lm_eval.loading import LMEvalTasks

BOOTSTRAPS = 1000
"""Resamples behind standard errors without a closed form; they are uncertain by 2 % then."""


def wrapped(loaded: LoadedModel, batch_size: int, length: int) -> Any:
    """Return a model as an `LM` of lm-eval, with the options of the module docstring."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - takes a second

    with patched(loaded.module, "tie_weights", lambda *_, **__: None):
        model = HFLM(
            pretrained=loaded.module,
            tokenizer=loaded.cached(
                "lm-eval's tokenizer", lambda: without_suffix(copy.deepcopy(loaded.tokenizer))
            ),
            backend="causal",
            batch_size=batch_size,
            max_length=length,
            softmax_dtype="float32",
        )
    _encode_rolling_without_bos(model)
    _check_and_separate(model, loaded)
    return model


def _encode_rolling_without_bos(model: Any) -> None:
    """Let lm-eval encode rolling texts without BOS, and other texts as the tokenizer does."""
    rolling = model.loglikelihood_rolling

    def without_bos(*args: Any, **options: Any) -> Any:
        model.add_bos_token = False
        try:
            return rolling(*args, **options)
        finally:
            model.add_bos_token = None  # the tokenizer's choice

    model.loglikelihood_rolling = without_bos


def _check_and_separate(model: Any, loaded: LoadedModel) -> None:
    """Check the token ids of every request, and keep requests of unlike continuations apart."""
    score, batch_encode = model._loglikelihood_tokens, model.tok_batch_encode  # noqa: SLF001

    def score_apart(requests: Any, *args: Any, **options: Any) -> Any:
        # Tokens up to the last -> lengths of the continuations that begin in them.
        lengths: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for _, context, continuation in requests:
            check_rows((*context, *continuation), loaded)
            lengths[(*context, *continuation[:-1])].add(len(continuation))
        model.logits_cache = all(len(each) == 1 for each in lengths.values())
        return score(requests, *args, **options)

    def encode_checked(*args: Any, **options: Any) -> Any:
        ids, mask = batch_encode(*args, **options)
        check_rows(ids, loaded)
        return ids, mask

    model._loglikelihood_tokens = score_apart  # noqa: SLF001
    model.tok_batch_encode = encode_checked


def evaluate(
    model: Any, found: LMEvalTasks, names: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Return lm-eval's results of tasks.

    Args:
        model: What `wrapped` returned.
        found: The loaded tasks.
        names: The names that were asked for, for messages.
        limit: Documents of each task; None is all.

    Raises:
        ConfigError: lm-eval cannot run the tasks with these options.
        InvalidResult: A perplexity is too large for a number.
    """
    from lm_eval import evaluator  # noqa: PLC0415 - takes a second

    try:
        results: dict[str, Any] = evaluator.evaluate(
            lm=model,
            task_dict=found,
            limit=limit,
            bootstrap_iters=BOOTSTRAPS,
            cache_requests=False,
            log_samples=True,
        )
    except (AssertionError, ValueError) as reason:
        raise ConfigError(
            f"lm-eval must be able to run {', '.join(names)} with these options, got "
            f"{type(reason).__name__}: {reason}; change task.shots, task.max_length or task.tasks"
        ) from reason
    except OverflowError as reason:
        raise InvalidResult(
            f"every perplexity must be a finite number, got {reason}; "
            "the recipe destroys this model, or the weights are damaged"
        ) from reason
    return results

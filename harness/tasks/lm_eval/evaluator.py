"""Let lm-eval run its tasks on an engine.

Some defaults of lm-eval change the scores of a quantized model. `harness.engines.lm_eval` corrects
those of lm-eval's own model. Two more are set here and in `lm_eval`:

- *Cache of answers.* Its key is the prompt alone, so one recipe would get the answers of another.
  `evaluate` does not use it.
- *Context length.* Perplexities depend on it. It is always set, and part of the protocol.
"""

from collections.abc import Sequence
from typing import Any

from harness.errors import ConfigError, InvalidResult
from harness.tasks.chat import Chat
from harness.tasks.lm_eval.loading import LMEvalTasks

BOOTSTRAPS = 1000
"""Resamples for standard errors without a closed form, which makes them uncertain by 2 %."""


def evaluate(
    model: Any, found: LMEvalTasks, names: Sequence[str], limit: int | None, chat: Chat
) -> dict[str, Any]:
    """Return lm-eval's results of tasks.

    Args:
        model: An `LM` of lm-eval.
        found: The loaded tasks.
        names: The names that were asked for, for messages.
        limit: Documents of each task; None is all.
        chat: Whether and how prompts are conversations.

    Raises:
        ConfigError: lm-eval cannot run the tasks with these options.
        InvalidResult: A perplexity is too large for a float.
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
            system_instruction=chat.system,
            apply_chat_template=chat.template,
            fewshot_as_multiturn=chat.as_turns,
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

"""Answer all requests of a task on one model.

1. `harness.engines.tree` finds the tokens that requests share.
2. `prefix_support` says whether the model can share them. If it cannot, every sequence runs whole.
3. `whole_sequences` runs the sequences that share nothing.
4. `shared_sequences` runs the others, pass by pass of the tree.
"""

from collections.abc import Callable, Iterator, Sequence

from harness.engines.local.prefix_support import unsupported
from harness.engines.local.shared_sequences import answer_shared
from harness.engines.local.split_model import SplitModel
from harness.engines.local.whole_sequences import answer_whole
from harness.engines.requests import Answer, Request, num_run
from harness.engines.tree import prefix_tree


def answer(
    model: SplitModel,
    requests: Sequence[Request],
    batch_tokens: int,
    warn: Callable[[str], object],
) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each request and its answer, in an order of its own.

    Args:
        model: The model.
        requests: All requests of a task.
        batch_tokens: Tokens that run together.
        warn: Is called with a warning if the model cannot run shared tokens once.

    Raises:
        ValueError: A request has no context, or a `Score` no continuation.
        InvalidResult: A logit of a decoded position is NaN.
    """
    if not requests:
        return
    tree = prefix_tree(requests)
    if len(tree) and (reason := unsupported(model, max(map(num_run, requests)))):
        warn(
            f"prompts of this model cannot share their beginning, because {reason}; "
            "every prompt was run whole, which is slower"
        )
        tree = prefix_tree(requests, share=False)
    yield from answer_whole(model, requests, tree, batch_tokens)
    yield from answer_shared(model, requests, tree, batch_tokens)

"""Run one loaded model in this process.

`engine` has both sides of `engine=local`: `Local` is the option, `LocalEngine` answers for a model.
It hands each kind of question to other files.

Scoring. `split_model` runs the decoder body and the LM head separately, so that logits exist for
scored positions only. `log_softmax` turns logits into float64 log-probabilities.

Answers. `answers` answers the requests of a task. `shared_sequences` runs those that share tokens,
as passes of a prefix tree: `tree_pass` packs a pass into one row, `tree_attention` computes its
attention in parts, `split_attention` joins the parts, and `prefix_support` says whether a model can
share tokens at all. `whole_sequences` runs the others. `reading` reads log-probabilities and next
tokens off hidden states. `greedy` continues prompts, and `decode_rows` gives it rows behind shared
nodes.

Comparisons. `compare` runs two engines on the same requests, `kl_divergence` makes statistics of
their logits, `baselines` finds the unquantized model, and `variants` changes how a model runs.
`kept_logits` and `layers` compare two forms of one recipe, the second one after the first.

Timed generation. `timed` is a model that task `throughput` can time: `time_request` takes its time
stamps, `matmul_types` observes in which types it multiplies, and `shape` reads its sizes.
`generation` decodes greedily, eager or compiled. `decodable` checks that decode steps with a cache
give the logits of whole sequences, and `decode_attention` is attention for one query.

Around both. `cpu_matmul` lets 16-bit models multiply in float32 on processors without 16-bit
instructions, and `patch` replaces a method for the length of a block.
"""

from harness.engines.local.decodable import cache_argument, check_decoding
from harness.engines.local.engine import Local, LocalEngine
from harness.engines.local.generation import Generation, forget_compiled
from harness.engines.local.split_model import SplitModel, split

__all__ = [
    "Generation",
    "Local",
    "LocalEngine",
    "SplitModel",
    "cache_argument",
    "check_decoding",
    "forget_compiled",
    "split",
]

"""Tasks of lm-eval, run by lm-eval's own code on the model in memory.

lm-eval (Gao et al., "A framework for few-shot language model evaluation") makes the prompts, the
batches and the scores; the record is the ordinary one.

1. `loading` finds the task files and their data.
2. `facts` hashes tasks, documents and examples for the identity of the run.
3. `evaluator` wraps the model for lm-eval and runs the tasks. It sets every option whose default
   changes what a quantized model scores, and says why.
4. `guards` keep random states, processes, the terminal and NaN logits under control meanwhile.
5. `results` turns lm-eval's results into metrics and samples.

`lm_eval` is the task that runs these steps. Chat templates and tasks that run generated code are
not offered.
"""

from harness.tasks.lm_eval.lm_eval import LMEval

__all__ = ["LMEval"]

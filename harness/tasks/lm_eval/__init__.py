"""Tasks of lm-eval, run by lm-eval's own code on any engine.

lm-eval (Gao et al., "A framework for few-shot language model evaluation") makes the prompts and the
scores; the record is the ordinary one.

1. `loading` finds the task files and their data.
2. `facts` hashes tasks, documents and examples for the identity of the run.
3. `evaluator` lets lm-eval run the tasks. lm-eval's requests reach the engine through
   `harness.engines.lm_eval`, which lists where answers differ from those of lm-eval's own model.
4. Meanwhile `guards` set and restore random states, processes and the terminal.
5. `results` turns lm-eval's results into metrics and samples.

`lm_eval` is the task that runs these steps. Tasks that run generated code are not offered.
"""

from harness.tasks.lm_eval.lm_eval import LMEval

__all__ = ["LMEval"]

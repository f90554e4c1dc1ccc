"""Tasks of lm-eval on the model in memory: `guards` keeps lm-eval from changing the model, `results` reads its figures."""

from harness.tasks.lm_eval.lm_eval import LMEval

__all__ = ["LMEval"]

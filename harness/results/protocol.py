"""Protocol lines of earlier versions that mean what a line of today means.

Tasks of lm-eval once ran in lm-eval's own batches with a float32 log-softmax. Engines pack batches
themselves, and their log-probabilities are float64. A token NLL differs by less than 1e-5 nat (the
error of torch's float32 exponential on CPUs), so records of both ages may be compared. Batches of
another size count as before: the configuration of a record holds the size.
"""

import re

LM_EVAL = re.compile(r"\|batch=1(\|.*\|logits=fp32\|softmax=)fp32$")


def renewed(protocol: str) -> str:
    """Return a protocol line as it is written today.

    ...|batch=1|bos=none|logits=fp32|softmax=fp32  ->  ...|bos=none|logits=fp32|softmax=fp64
    """
    return LM_EVAL.sub(r"\1fp64", protocol)

"""Perplexity of a text: exp of the mean -ln p of its tokens, under one of three protocols.

The number depends on how the text is cut into windows, and every tool cuts it in its own way. Each
protocol is a `Segmentation` (`harness.tasks.segments`), and has a task name of its own:

    perplexity              disjoint_windows    equal windows, as in the GPTQ and AWQ papers
    perplexity_llama_cpp    llama_cpp           second halves of windows, as `llama-perplexity`
    perplexity_documents    documents           whole documents, as lm-eval's task `wikitext`

`perplexity` cuts the text, scores the segments and files the NLL of every token. `metrics` turns
NLLs into figures per token, word and byte with intervals over documents.
"""

from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity

__all__ = ["DisjointWindows", "Documents", "HalfWindows", "Perplexity"]

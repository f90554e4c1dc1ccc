"""Perplexity of a text under three protocols, each a way to cut the text into segments.

`disjoint_windows` cuts windows of equal length, `llama_cpp` scores the second half of each window, and `documents` follows lm-eval's
`wikitext`. `perplexity` runs any of them, `metrics` makes figures per token, word and byte.
"""

from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity

__all__ = ["DisjointWindows", "Documents", "HalfWindows", "Perplexity"]

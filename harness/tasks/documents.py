"""The documents that tokens begin in: the independent units of every figure over text."""

from collections.abc import Iterable
from typing import Any

import numpy as np

DocumentIds = np.ndarray[Any, np.dtype[np.int64]]
"""The document that each of some tokens begins in, in order."""


def num_documents(items: Iterable[DocumentIds]) -> int:
    """Return the number of documents that the tokens of all items are of."""
    return len(set().union(*(np.unique(documents).tolist() for documents in items)))


def document_words(documents: DocumentIds) -> str:
    """Return the documents of one item in a word: `3`, or the first and the last, `3-5`."""
    if not len(documents):
        return "none"
    first, last = int(documents[0]), int(documents[-1])
    return str(first) if first == last else f"{first}-{last}"

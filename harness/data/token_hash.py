"""The hash of token ids, which tells whether two runs read the same tokens."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def hash_token_ids(sequences: Iterable[Sequence[int]]) -> str:
    """Return the SHA-256 of token sequences: length and ids of each, little-endian int32."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()

"""A first version of answers: every request whole, and replaced by the prefix tree."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from harness.engines.local.log_softmax import log_softmax
from harness.engines.local.split_model import SplitModel
from harness.engines.requests import Answer, Generate, Generated, Request, Score, Scored


def answer(
    model: SplitModel, requests: Sequence[Request], batch_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Yield answers."""
    scores = [(i, r) for i, r in enumerate(requests) if isinstance(r, Score)]
    order = sorted(scores, key=lambda pair: -len(pair[1].context) - len(pair[1].continuation))
    batch: list[tuple[int, Score]] = []
    for pair in [*order, None]:
        longest = len(batch[0][1].context) + len(batch[0][1].continuation) if batch else 0
        if batch and (pair is None or longest * (len(batch) + 1) > batch_tokens):
            yield from _score(model, batch)
            batch = []
        if pair is not None:
            batch.append(pair)
    for index, request in enumerate(requests):
        if isinstance(request, Generate):
            yield index, _generate(model, request)


def _score(model: SplitModel, batch: Sequence[tuple[int, Score]]) -> Iterator[tuple[int, Answer]]:
    ids = [torch.tensor([*r.context, *r.continuation]) for _, r in batch]
    hidden = model.hidden(pad_sequence([x[:-1] for x in ids], batch_first=True))
    rows = [
        hidden[b, len(r.context) - 1 : len(x) - 1]
        for b, ((_, r), x) in enumerate(zip(batch, ids, strict=True))
    ]
    targets = torch.cat([torch.tensor(r.continuation) for _, r in batch])
    nll = model.nll(torch.cat(rows), targets.to(model.loaded.device)).cpu()
    parts = torch.split(nll, [len(r.continuation) for _, r in batch])
    for (index, _), part in zip(batch, parts, strict=True):
        yield index, Scored(-part.numpy(), np.zeros(len(part), bool))


def _generate(model: SplitModel, request: Generate) -> Generated:
    ids = list(request.context)
    eos = model.loaded.tokenizer.eos_token_id
    found: list[int] = []
    for _ in range(request.max_new_tokens):
        hidden = model.hidden(torch.tensor([ids]))
        token = int(log_softmax(model.logits(hidden[:, -1])).argmax())
        if token == eos:
            break
        found.append(token)
        ids.append(token)
        text = model.loaded.tokenizer.decode(found).lstrip()
        if any(stop in text for stop in request.stop):
            break
    return Generated(tuple(found))

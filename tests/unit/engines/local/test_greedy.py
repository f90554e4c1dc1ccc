"""When a row of greedy decoding is over."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from harness.engines.local.greedy import decode, end_ids
from harness.engines.requests import Generate, Generated
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer


class Script:
    """Rows that write given tokens, whatever the model would say."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = [row[1:] for row in rows]
        self.steps = 0

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def append(self, tokens_B: torch.Tensor) -> torch.Tensor:
        assert len(tokens_B) == len(self.rows)
        self.steps += 1
        wanted = torch.tensor([row.pop(0) for row in self.rows])
        return torch.nn.functional.one_hot(wanted, 261).float()


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, {260}), (7, {7, 260}), ([7, 8], {7, 8, 260})]
)
def test_end_tokens_are_those_of_model_and_tokenizer(
    tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    configured: int | list[int] | None,
    expected: set[int],
) -> None:
    monkeypatch.setattr(tiny.module, "generation_config", SimpleNamespace(eos_token_id=configured))
    assert end_ids(tiny) == expected


def test_each_row_ends_by_itself_and_leaves_the_others(tiny: LoadedModel) -> None:
    texts = [
        "B\nABCDE",
        "\n\nBCDEF",
        " \n B\nCDE",
        "B<eos>ABCDE",
        "<eos>ABCDEF",
        "ABCDEFGH",
        "QABQCDEF",
    ]
    written = ["B\n", "\n\nBCDE", " \n B\n", "B", "", "ABCDEF", "QABQ"]
    rows = [list(byte_tokenizer()(text)["input_ids"]) for text in texts]
    requests = [Generate((5,), 6, ("\n", "Q"))] * len(rows)
    script = Script(rows)
    found = dict(decode(tiny, requests, {i: row[0] for i, row in enumerate(rows)}, script))
    assert found == {
        i: Generated(tuple(byte_tokenizer()(text)["input_ids"])) for i, text in enumerate(written)
    }
    assert script.steps == 5

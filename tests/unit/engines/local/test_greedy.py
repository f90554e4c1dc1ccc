"""When a row of greedy decoding is over."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from harness.engines.local.greedy import decode, end_ids, most_likely
from harness.engines.requests import Generate, Generated
from harness.errors import InvalidResult
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


def test_no_more_tokens_are_decoded_than_asked_for(tiny: LoadedModel) -> None:
    requests = [Generate((5,), most) for most in (0, 3, 0, 1)]
    found = dict(decode(tiny, requests, dict.fromkeys(range(4), 65), Script([[65] * 9] * 4)))
    assert [len(found[index].tokens) for index in range(4)] == [0, 3, 0, 1]


def test_an_empty_stop_text_ends_nothing(tiny: LoadedModel) -> None:
    requests = [Generate((5,), 4, ("", "Q"))]
    ((_, found),) = decode(tiny, requests, {0: 65}, Script([[65] * 9]))
    assert len(found.tokens) == 4


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([0.0, math.nan, 2.0], "NaN"),
        ([0.0, math.inf, 2.0], "inf"),
        # No distribution has these logits: log-softmax is NaN.
        ([-math.inf, -math.inf, -math.inf], "-inf"),
    ],
)
def test_a_row_without_a_distribution_has_no_next_token(row: list[float], found: str) -> None:
    good = [-math.inf, 1.0, 3.0]
    assert most_likely(torch.tensor([good, good])).tolist() == [2, 2]
    assert torch.tensor(row).log_softmax(-1).isnan().any()
    with pytest.raises(InvalidResult, match=f"got {found} while decoding"):
        most_likely(torch.tensor([good, row]))

"""Where the number of samples of a table comes from."""

import pytest

from harness.audit.study import study

TABLE = (
    "\n| scheme | MMLU (%) | vs BF16 |\n|---|---|---|\n| BF16 | 50.0 | - |\n| a | 50.5 | +0.5 |\n"
)
LISTED = "- MMLU (5-shot, 1000 samples for Task 3.1, 200 samples for Task 3.2/3.3)\n"


def count(text: str, given: int | None = None) -> int | None:
    found = study(text, given)
    return found.count(found.sheets[-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TABLE, None),
        (f"Over 1,319 questions:\n{TABLE}", 1319),
        (f"# A\n\nAll of n = 250.\n\n## B\n{TABLE}", 250),
        (f"# A\n\n## B\n\n300 samples each.\n\n### C\n{TABLE}", 300),
        (f"# A\n\n## B\n\n300 samples each.\n\n## C\n{TABLE}", None),
        (f"# A\n{LISTED}\n## Task 3.1: x\n{TABLE}", 1000),
        (f"# A\n{LISTED}\n## Task 3.3 y\n{TABLE}", 200),
        (f"# A\n## S\n{LISTED}\n## Task 3.30\n{TABLE}", None),
        (f"# A\n\nWikiText-2, the first 100 samples, for PPL.\n{TABLE}", None),
        (f"# A\n\n- MMLU, 1000样本, 5-shot\n- WikiText-2 前100个样本\n{TABLE}", 1000),
        (TABLE.replace("MMLU (%)", "MMLU (n = 400)").replace("50.0", "50.0 %"), 400),
    ],
)
def test_what_the_document_says_beside_the_table(text: str, expected: int | None) -> None:
    assert count(text) == expected


def test_the_option_is_for_tables_that_do_not_say_it() -> None:
    assert count(TABLE, 1000) == 1000
    assert count(f"Over 200 questions:\n{TABLE}", 1000) == 200


def test_a_column_of_counts_comes_first() -> None:
    table = "| scheme | n | MMLU |\n|---|---|---|\n| BF16 | 1,000 questions | 50.0 % |\n"
    assert count(f"Over 200 questions:\n\n{table}") == 1000

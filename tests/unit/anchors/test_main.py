"""`quant-harness anchors`: the list of published figures."""

import pytest
from published import anchor

from harness.anchors import __main__ as command
from harness.anchors.__main__ import chosen, page
from harness.errors import ConfigError

KNOWN = (
    anchor(6.24, model="org/Second"),
    anchor(8.5, model="org/first", task="mmlu", options={"shots": 5}),
    anchor(7.42, model="org/second", quantization="FP8", recipe="fp8_row"),
    anchor(7.9, model="org/second", quantization="by hand"),
    anchor(9.216, model="org/second", task=None, options={}),
)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(command, "anchors", lambda: KNOWN)
    monkeypatch.setattr("sys.argv", ["quant-harness anchors", *words])
    command.main()


def test_figures_are_chosen_by_a_part_of_the_model_and_by_task() -> None:
    assert [found.published.value for found in chosen(KNOWN, None, None)] == [
        *(8.5, 6.24, 7.42, 7.9, 9.216)
    ]
    assert [found.published.value for found in chosen(KNOWN, "FIRST", None)] == [8.5]
    assert [found.published.value for found in chosen(KNOWN, "org/", "mmlu")] == [8.5]


@pytest.mark.parametrize(
    ("model", "task", "said"),
    [
        ("gpt", None, "got gpt; models: org/Second, org/first"),
        ("first", "mmlu_1k", "got mmlu_1k; did you mean mmlu?; tasks: mmlu"),
        (None, "throughput", "tasks: mmlu, perplexity"),
    ],
)
def test_a_choice_without_figures_is_answered_with_what_there_is(
    model: str | None, task: str | None, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(KNOWN, model, task)
    assert said in str(caught.value)


def test_a_row_says_how_a_figure_is_repeated_and_where_it_comes_from() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page(chosen(KNOWN, None, None)).splitlines()
        if line.startswith("| org/")
    ]
    assert [(row[1], row[3], row[5]) for row in rows] == [
        ("none", "8.5", "task=mmlu task.shots=5"),
        ("none", "6.24", "task=perplexity task.window=2048"),
        ("FP8", "7.42", "quant=fp8_row task=perplexity task.window=2048"),
        ("by hand", "7.9", "-"),
        ("none", "9.216", "-"),
    ]
    sources = page([KNOWN[0]]).splitlines()[-3:]
    assert sources == [
        "1  a paper: https://example.org/paper",
        "   protocol: windows of 2,048 tokens",
        "   tolerance: two decimals are printed",
    ]


def test_the_command_prints_a_table_or_one_line_on_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "--model", "first")
    assert capsys.readouterr().out.count("| org/") == 1
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "--task", "nothing")
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1

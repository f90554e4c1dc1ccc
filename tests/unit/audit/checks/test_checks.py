"""Checks on small tables: what they find, and the nearest table on which they find nothing."""

import pytest

from harness.audit import audit
from harness.audit.study import study


def found(header: str, *rows: str, given: int | None = None, prose: str = "") -> list[str]:
    """Return the kinds of findings in one table, whose cells are separated by commas."""
    lines = [f"| {' | '.join(line.split(','))} |" for line in (header, *rows)]
    rule = f"|{'---|' * (header.count(',') + 1)}"
    text = "\n".join([lines[0], rule, *lines[1:], "", prose])
    return [each.fault for each in audit(study(text, given))]


def test_medals_without_a_column_of_ranks() -> None:
    assert found("scheme,MMLU", "🥇 a,50.9", "🥈 b,50.7", "c,49.0") == []
    assert found("scheme,MMLU", "🥇 a,50.7", "🥈 b,50.9", "c,49.0") == ["order", "order"]
    assert found("scheme,PPL", "🥇 a,5.01", "🥈 b,5.17", "c,5.33") == []
    assert found("scheme,PPL", "🥇 a,5.33", "b,5.17", "c,5.01") == ["order"]


def test_ranks_of_a_metric_that_does_not_say_what_is_better() -> None:
    assert found("rank,scheme,x", "1,a,9.1", "2,b,8.2", "3,c,7.3", "4,d,7.1") == []
    assert found("rank,scheme,x", "1,a,1.1", "2,b,2.2", "3,c,3.3", "4,d,4.1") == []
    wrong = found("rank,scheme,x", "1,a,9.1", "2,b,8.2", "3,c,7.3", "4,d,7.5", "5,e,3.1")
    assert wrong == ["order"]
    # Half of the neighbours rise and half fall: the table is not sorted by this column.
    assert found("rank,scheme,x", "1,a,1.1", "2,b,9.2", "3,c,3.3", "4,d,8.1", "5,e,2.1") == []


def test_relative_changes_in_points() -> None:
    rows = ("BF16,10.00,-", "a,10.50,+5.00 pp", "b,11.00,+10.00 pp")
    assert found("scheme,PPL,change", *rows) == ["unit"]
    rows = ("BF16,10.00,-", "a,10.50,+5.00 %", "b,11.00,+10.00 %")
    assert found("scheme,PPL,change", *rows) == []


def test_accuracies_as_fractions() -> None:
    rows = ("BF16,0.506,-", "a,0.509,+0.003", "b,0.310,-0.196")
    kinds = found("scheme,MMLU,difference", *rows, given=1000)
    # 196 net flips of 1,000 are significant whatever the number of flips.
    assert kinds == ["no interval", "gap"]


def test_a_column_of_means() -> None:
    rows = ("a,10.0,20.0,15.0", "b,30.0,40.0,35.0")
    assert found("model,ARC,PIQA,Avg", *rows, "c,50.0,60.0,55.0") == []
    assert found("model,ARC,PIQA,Avg", *rows, "c,50.0,60.0,56.0") == ["mean"]
    # A mean that no set of columns explains is a mean of something else.
    assert found("model,ARC,PIQA,Avg", "a,10.0,20.0,17.0", "b,30.0,40.0,31.0") == []


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("FP8 has the average 2.50.", ["sentence"]),
        ("FP8 has the average 2.00.", []),
        ("Another model has the average 2.50.", []),
        ("FP8 is better in 2 of 3 cases.", ["sentence"]),
        ("FP8 is better in 3/3 cases.", []),
        ("FP8 is better in 2 of 4 cases.", []),
    ],
)
def test_sentences_beside_a_comparison(sentence: str, kinds: list[str]) -> None:
    rows = ("a,1.00,1.10,+0.10", "b,1.50,1.90,+0.40", "c,2.50,3.00,+0.50")
    assert found("case,INT8,FP8,difference", *rows, prose=sentence) == kinds


def test_finer_scales_that_help_are_no_fault() -> None:
    levels = ("per-tensor", "per-channel", "group 512", "group 128", "group 64")
    better = [f"{level},{value}" for level, value in zip(levels, (9, 8, 7, 6, 5), strict=True)]
    worse = [f"{level},{value}" for level, value in zip(levels, (5, 6, 7, 8, 9), strict=True)]
    assert found("scale,PPL", *better) == []
    assert found("scale,PPL", *worse) == ["granularity"]


def test_one_speed_with_an_error_is_no_fault() -> None:
    assert found("scheme,decode (tokens/s)", "BF16,9.35") == ["no baseline"]
    assert found("scheme,decode (tokens/s)", "BF16,9.35 ± 0.02") == []


def test_baselines_of_two_models_are_two_baselines() -> None:
    tables = [
        f"## {name}\n\n| scheme | PPL |\n|---|---|\n| FP16 | {value} |\n| int4 | 9.99 |\n"
        for name, value in (("Llama-2-7B", "5.47"), ("Llama-3-8B", "6.14"))
    ]
    assert audit(study("\n".join(tables))) == []
    [finding] = audit(study("\n".join(tables).replace("Llama-3-8B", "Llama-2-7B")))
    assert "fp16 has 2 values of perplexity" in finding.text


def test_an_order_that_a_second_table_does_not_repeat() -> None:
    def table(values: str) -> str:
        rows = [
            f"| s{i}_fake | {value}.0 | {int(value) - 5:+d}.0 |" for i, value in enumerate(values)
        ]
        return "\n".join(
            ["| scheme | MMLU | delta |", "|---|---|---|", "| BF16 | 5.0 | - |", *rows]
        )

    def replicated(first: str, second: str) -> list[str]:
        both = f"{table(first)}\n\n# Again\n\n{table(second).replace('_fake', '')}"
        found = audit(study(both, 100))
        return [each.text for each in found if each.fault == "replication"]

    # The rank correlation of these two is 0.26 (by hand: 1 - 6 * 26 / 210).
    [text] = replicated("123467", "253417")
    assert "Spearman" in text
    assert replicated("123467", "123467") == []
    assert replicated("123467", "213467") == []

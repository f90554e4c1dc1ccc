import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from harness.errors import ResultError
from harness.report import __main__ as command
from harness.report.__main__ import write
from harness.report.markdown import escape
from harness.results.record import Metric, RunRecord, Status


def text_of(root: Path, tmp_path: Path) -> str:
    return write(root, tmp_path / "reports", "study").read_text(encoding="utf-8")


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without header and rule."""
    body = text.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_differences_of_accuracy_are_points_and_of_perplexity_plain_and_percent(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        make_record("none", 0.50),
        make_record("int8_row", 0.49),
        make_record("none", 10.0, task="perplexity"),
        make_record("int8_row", 10.1, task="perplexity"),
    )
    text = text_of(root, tmp_path)
    accuracy = cells(text, "Ranking against the baseline: mmlu of m")
    assert accuracy[1][:4] == [
        "`int8_row`",
        "49.00 %",
        "44.10 % .. 53.90 %",
        "-1.00 pp",
    ]
    perplexity = cells(text, "Ranking against the baseline: perplexity of m")
    assert perplexity[1][3:5] == ["+0.1000", "+1.000 %"]


def test_without_a_baseline_no_difference_is_shown(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    text = text_of(file_records(make_record("int8_row", 0.49)), tmp_path)
    assert cells(text, "Ranking against the baseline: mmlu of m")[0][4] == "no baseline"


def test_formats_are_compared_on_the_same_parameters_only(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    more = make_record("int8_row (skip=[])", 0.9, fmt="int8_row")
    assert more.quant is not None
    quant = more.quant.model_copy(update={"num_quantized": 900})
    root = file_records(
        more.model_copy(update={"quant": quant}),
        make_record("int8_row", 0.52),
        make_record("fp8_row", 0.49, fmt="fp8_e4m3fn_row"),
    )
    rows = cells(text_of(root, tmp_path), "INT8 against FP8 by granularity")
    assert rows[0][:4] == ["row", "52.00 %", "49.00 %", "+3.00 pp"]


def test_int8_and_fp8_are_compared_at_each_granularity(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        make_record("int8_row", 0.52),
        make_record("fp8_row", 0.49, fmt="fp8_e4m3fn_row"),
        make_record("int8_g64", 0.5, bits=8.5),
        make_record("int8_g128", 0.5, bits=8.25),
    )
    text = text_of(root, tmp_path)
    rows = cells(text, "INT8 against FP8 by granularity")
    assert [*rows[0][:4], rows[0][6]] == ["row", "52.00 %", "49.00 %", "+3.00 pp", "better"]
    # 30 answers changed, all one way: Wald's interval with a flip each way added.
    center = 30 / 1002
    half = 1.959964 * math.sqrt((32 / 1002 - center**2) / 1002)
    assert rows[0][4] == f"+{100 * (center - half):.2f} pp .. +{100 * (center + half):.2f} pp"
    assert float(rows[0][5]) == pytest.approx(2 * 0.5**30, rel=0.05)
    assert ["g64", "50.00 %", "-", "-", "-", "-", "-"] in rows
    trend = cells(text, "Group-size trend")
    assert [row[:2] for row in trend] == [
        ["a whole row", "8.000"],
        ["128 weights", "8.250"],
        ["64 weights", "8.500"],
    ]


def test_direct_and_generate_are_joined_only_on_the_same_questions(
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    parse_rate: Metric,
    tmp_path: Path,
) -> None:
    same = file_records(
        make_record("none", 0.5),
        make_record("none", 0.45, task="mmlu_generate", extra=(parse_rate,)),
    )
    row = cells(text_of(same, tmp_path), "Direct against generate: MMLU")[0]
    assert [*row[1:4], *row[6:8]] == ["50.00 %", "45.00 %", "-5.00 pp", "worse", "90.00 %"]
    other = file_records(make_record("none", 0.5, task="mmlu_generate", data="data-2"))
    for file in other.rglob("*.json"):
        if "run-2" in file.name:
            file.unlink()
    assert "Direct against generate" not in text_of(other, tmp_path)


def test_failed_runs_and_damaged_files_are_listed_and_repeated_ones_are_not(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        make_record("none"),
        make_record("int8_row", status=Status.ERROR),
        make_record("fp8_row", status=Status.ERROR, config_hash="again"),
        make_record("fp8_row", config_hash="again"),
    )
    (root / "t/m/half.json").write_text('{"schema_version": 1', encoding="utf-8")
    text = text_of(root, tmp_path)
    assert [row[2:4] for row in cells(text, "Runs without a result")] == [["`int8_row`", "error"]]
    left_out = text.split("## Left out: files that cannot be used")[1].split("\n## ")[0]
    assert "half.json` must be a whole record" in left_out


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "DataError: data must be found, got none:\n  hub: offline\nDo this.",
            "data must be found",
        ),
        (
            "Traceback (most recent call last):\n  File\nValueError: the fault",
            "ValueError: the fault",
        ),
    ],
)
def test_a_failed_run_is_listed_with_what_went_wrong(
    error: str,
    reason: str,
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    failed = make_record("int8_row", status=Status.ERROR).model_copy(update={"error": error})
    ((*_, shown, _file),) = cells(
        text_of(file_records(make_record("none"), failed), tmp_path), "Runs without a result"
    )
    assert reason in shown


def test_path_and_stored_size_tell_real_from_fake(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        make_record("none", 0.5, stored_bytes=4000),
        make_record("int8_row", 0.49),
        make_record("int8_row_real", 0.48, backend="scaled_mm", stored_bytes=1_650_000),
    )
    text = text_of(root, tmp_path)
    assert [row[-1] for row in cells(text, "Ranking against the baseline: mmlu of m")] == [
        "none",
        "fake-quant",
        "`real/scaled_mm`",
    ]
    sizes = {row[0]: (row[1], row[5]) for row in cells(text, "Size and coverage")}
    assert sizes == {
        "baseline": ("none", "0.00 MB"),
        "`int8_row`": ("fake-quant", "-"),
        "`int8_row_real`": ("`real/scaled_mm`", "1.65 MB"),
    }


def test_sizes_keep_a_recipe_that_ran_fake_in_one_task_and_real_in_another(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        make_record("int8_row", 0.49),
        make_record("int8_row", 9.0, task="perplexity", backend="torchao"),
    )
    rows = cells(text_of(root, tmp_path), "Size and coverage")
    assert sorted(row[1] for row in rows) == ["fake-quant", "real/torchao"]


def test_sizes_of_a_checkpoint_that_came_quantized_claim_no_list_of_layers(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    """Its record has none: neither are 0 matrices quantized, nor is nothing left in float."""
    root = file_records(make_record("int8_row", 0.49))
    (row,) = cells(text_of(root, tmp_path), "Size and coverage")
    assert row[-3:] == ["80.00 %", "-", "-"]


def test_nothing_is_emphasized_or_called_best(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(make_record("none", 0.5), make_record("int8_row", 0.9))
    text = text_of(root, tmp_path)
    kinds = {
        t.type for block in MarkdownIt().enable("table").parse(text) for t in block.children or []
    }
    assert not kinds & {"strong_open", "em_open"}
    assert not re.search(r"\bbest\b|medal|winner|significant", text.lower())


def test_names_from_outside_stay_text(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    names = [
        "a|b",
        "<img src=x onerror=alert(1)>",
        "x\ny",
        "`c`",
        "[x](javascript:1)",
        "**b**",
        "![i](u)",
    ]
    root = file_records(*(make_record(name, warnings=(name,)) for name in names))
    text = text_of(root, tmp_path)
    blocks = MarkdownIt().enable("table").parse(text)
    kinds = {t.type for block in blocks for t in [block, *(block.children or [])]}
    forbidden = {"html_inline", "html_block", "link_open", "image", "strong_open", "code_inline"}
    assert not kinds & forbidden
    shown = [t.content for block in blocks for t in block.children or [] if t.type == "text"]
    words = re.sub(r"\s", "", "".join(shown))
    assert [name for name in names if "".join(name.split()) not in words] == []


def test_escape_leaves_plain_words_alone() -> None:
    assert escape("int8_row (suspect), /a/b_c.json.") == "`int8_row` (suspect), `/a/b_c.json`."
    assert escape("a_b`c|d_e __x__") == r"a\_b\`c\|`d_e` \_\_x\_\_"
    assert escape("perplexity of m, 8.25 bits") == "perplexity of m, 8.25 bits"
    # What a terminal would obey, or what would turn the text around, is shown by its code.
    assert escape("a\0b\x1b[31mc\u202egnp") == r"a\\x00b\\x1b\[31mc\\u202egnp"
    assert escape("\U0001f469\u200d\U0001f680 é") == "\U0001f469\u200d\U0001f680 é"


def test_a_folder_without_results_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="must hold records"):
        write(tmp_path / "none", tmp_path, None)


def test_command_names_the_report_and_needs_no_torch(
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = file_records(make_record("none"))
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it is an error
    monkeypatch.setattr(sys, "argv", ["report", str(root), "--out", str(tmp_path)])
    command.main()
    *answer, report, claims = capsys.readouterr().out.splitlines()
    assert answer[0].startswith("mmlu of m (questions), 1,000 questions")
    assert report == f"report: {tmp_path / 'results.md'}"
    assert claims == f"claims: {tmp_path / 'results.json'}, {tmp_path / 'results.csv'}"

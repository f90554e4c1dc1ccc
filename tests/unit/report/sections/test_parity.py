"""Real against fake in reports: the verdict in words, and no quality made of it."""

from collections.abc import Callable
from pathlib import Path

from harness.claims.grouping import comparable
from harness.report.__main__ import write
from harness.report.sections.parity import parities
from harness.results.record import LayerReport, Metric, RunRecord, Unit
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]


def metric(name: str, value: float | None, unit: Unit, note: str | None = None) -> Metric:
    return Metric(
        name=name,
        value=value,
        unit=unit,
        n=790,
        n_of="token",
        ci95=None if note else (0.9 * (value or 0), 1.1 * (value or 0)),
        higher_is_better=False,
        note=note or "interval by document, 9 of them",
    )


def metrics(difference: float, within: float | None, note: str) -> tuple[Metric, ...]:
    nat = Unit.NAT_PER_TOKEN
    return (
        metric("logprob_difference", difference, nat),
        metric("logprob_difference_max", 8 * difference, nat, "no interval"),
        metric("kl", difference**2, nat),
        metric("top1_agreement", 0.99, Unit.FRACTION),
        metric("float_kl_fake", 0.012, nat),
        metric("float_kl_real", 0.0121, nat),
        metric("layer_difference", difference / 2, Unit.ONE, "worst"),
        metric("within_tolerance", within, Unit.ONE, note),
    )


def table_of(root: Path) -> dict[str, dict[str, str]]:
    (group,) = comparable(ResultStore(root=root).load()[0])
    section = parities(group)
    assert section is not None
    assert section.table is not None
    return section.table.set_index("recipe").to_dict("index")


def real(make_record: MakeRecord, recipe: str, *facts: object) -> RunRecord:
    return make_record(recipe, task="parity", backend="scaled_mm", metrics=metrics(*facts))


def test_verdict_is_in_words_with_the_tolerance(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    root = file_records(
        real(make_record, "int8_row_real", 0.001, 1.0, "within 0.003"),
        real(make_record, "fp8_row_real", 0.2, 0.0, "above 0.003"),
        real(make_record, "nf4_real", 0.004, None, "no tolerance in float16 stated"),
    )
    table = table_of(root)
    assert {name: row["verdict"] for name, row in table.items()} == {
        "int8_row_real": "real = fake (within 0.003)",
        "nf4_real": "differs by 0.002 (no tolerance in float16 stated)",
        "fp8_row_real": "real is not fake: differs by 0.1 (above 0.003)",
    }
    assert list(table) == ["int8_row_real", "nf4_real", "fp8_row_real"]


def test_differences_stand_beside_the_distance_from_float_and_the_kernels(
    make_record: MakeRecord, file_records: Callable[..., Path]
) -> None:
    record = real(make_record, "int8_row_real", 0.001, 1.0, "within 0.003")
    assert record.quant is not None
    layers = tuple(
        LayerReport(
            name=f"layer{i}",
            rule="linear",
            format="int8_row",
            shape=(4, 4),
            bits_per_weight=8.0,
            rel_error=0.01,
            short_tail=False,
            kernel=kernel,
            stored_bytes=16,
        )
        for i, kernel in enumerate(["torch._int_mm", "by rows", "torch._int_mm"])
    )
    quant = record.quant.model_copy(update={"layers": layers})
    row = table_of(file_records(record.model_copy(update={"quant": quant})))["int8_row_real"]
    assert row["backend"] == "scaled_mm"
    assert row["kernels"] == "by rows, torch._int_mm"
    assert row["worst layer"] == "0.0005"
    assert row["log-prob. difference [nat/token]"] == "0.001"
    assert row["95 % interval"] == "0.0009 .. 0.0011"
    assert (row["its max"], row["KL(fake to real)"]) == ("0.008", "1e-06")
    assert row["same top token"] == "99.00 %"
    assert (row["KL(float to fake)"], row["KL(float to real)"]) == ("0.012", "0.0121")


def test_parity_is_no_ranking_of_formats(
    make_record: MakeRecord, file_records: Callable[..., Path], tmp_path: Path
) -> None:
    root = file_records(
        *(
            make_record(
                f"{fmt}_real",
                task="parity",
                fmt=fmt,
                backend="scaled_mm",
                metrics=metrics(0.001, 1.0, "within 0.003"),
            )
            for fmt in ("int8_row", "fp8_e4m3fn_row", "int8_g64")
        )
    )
    text = write(root, tmp_path, "parity").read_text(encoding="utf-8")
    assert "## Real against fake: m, float32 on cpu" in text
    assert "real = fake (within 0.003)" in text
    assert "INT8 against FP8" not in text
    assert "Group-size trend" not in text
    assert "difference from baseline" not in text

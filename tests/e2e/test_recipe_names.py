"""A recipe with changed parts says so wherever it is named: on the terminal, in the file's name, in the record."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from harness.results.record import RunRecord

Cli = Callable[..., subprocess.CompletedProcess[str]]
TASK = ("model=tiny", "data=embedded", "task.window=64", "task.limit_windows=2")


def test_single_runs_and_jobs_of_a_sweep_say_what_was_changed(
    cli: Cli, tmp_path: Path, records: Callable[[Path], list[RunRecord]]
) -> None:
    swept = cli("-m", "+quant=int8_row,fp8_row", "quant.rules.linear.match='*.mlp.*'", *TASK)
    assert swept.returncode == 0, swept.stderr
    single = cli("quant=int8_row", "format@quant.rules.linear.weight=int2_group", *TASK)
    assert single.returncode == 0, single.stderr
    expected = [
        "int8_row (match=*.mlp.*)",
        "fp8_row (match=*.mlp.*)",
        "int8_row (weight=int2_g128)",
    ]
    printed = [*swept.stdout.splitlines(), *single.stdout.splitlines()]
    said = [line for line in printed if "; done: " in line]
    for line, name in zip(said, expected, strict=True):
        assert line.startswith(f"{name} perplexity: perplexity ")
    assert [each.quant and each.quant.name for each in records(tmp_path / "results")] == expected
    files = sorted(file.name.partition("--")[0] for file in tmp_path.glob("results/*/*/*.json"))
    assert files == ["fp8_row_match_.mlp._", "int8_row_match_.mlp._", "int8_row_weight_int2_g128_"]

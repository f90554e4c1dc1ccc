"""Files of published figures: what is read, and what is said of a file that is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.anchors.files import read
from harness.errors import ConfigError

VALUE = {"model": "org/model", "value": 6.24}
TABLE = {
    "source": "a paper",
    "url": "https://example.org",
    "protocol": "windows",
    "task": "perplexity",
    "options": {"window": 2048},
    "data": "wikitext2-raw-v1/test",
    "metric": "perplexity",
    "tolerance": 0.02,
    "why": "two decimals are printed",
    "values": [VALUE],
}


def written(folder: Path, content: Any) -> Path:
    file = folder / "paper.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def test_a_value_has_the_protocol_of_its_table_and_may_have_a_tolerance_of_its_own(
    tmp_path: Path,
) -> None:
    own = {**VALUE, "tolerance": 0.3, "why": "the embedding is in INT8"}
    file = written(tmp_path, {"tables": [TABLE, {**TABLE, "values": [own]}]})
    first, second = read(file)
    assert first.words == ("task=perplexity", "task.window=2048")
    assert (first.tolerance, first.why) == (0.02, "two decimals are printed")
    assert (second.tolerance, second.why) == (0.3, "the embedding is in INT8")


@pytest.mark.parametrize(
    ("table", "value", "field"),
    [
        ({"tolerance": 0}, {}, "tables.0.tolerance"),
        ({"tolerance": float("nan")}, {}, "tables.0.tolerance"),
        ({"url": "paper.pdf"}, {}, "tables.0.url"),
        ({"data": "c4"}, {}, "tables.0.data"),
        ({"why": None}, {}, "tables.0.why"),
        ({"comment": "x"}, {}, "tables.0.comment"),
        ({"options": {"window": [1, 2]}}, {}, "tables.0.options.window"),
        ({"task": None}, {}, "tables.0 must be"),
        ({"values": []}, {}, "tables.0.values"),
        ({}, {"model": "model"}, "tables.0.values.0.model"),
        ({}, {"value": "6,24"}, "tables.0.values.0.value"),
        ({}, {"value": float("inf")}, "tables.0.values.0.value"),
        ({}, {"recipe": "int8_row"}, "quantization must be given"),
        ({}, {"tolerance": 0.3}, "tolerance and why must be given together"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_field(
    table: dict[str, Any], value: dict[str, Any], field: str, tmp_path: Path
) -> None:
    values = {} if "values" in table else {"values": [VALUE | value]}
    file = written(tmp_path, {"tables": [TABLE | values | table]})
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "tables: [", "- a list", "tables: []"])
def test_a_file_that_holds_no_tables_is_an_error(content: str, tmp_path: Path) -> None:
    file = written(tmp_path, content)
    with pytest.raises(ConfigError, match="correct the file") as caught:
        read(file)
    assert str(file) in str(caught.value)

"""The section on published figures."""

from pathlib import Path

import pytest
from published import anchor, run

from harness.report.sections.published import published_figures
from harness.results.store import Stored


def test_each_run_stands_beside_the_figures_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.anchors.comparison.anchors", lambda: (anchor(), anchor(6.9)))
    records = [run(6.25), run(6.25, model={"name": "org/other", "fingerprint": "beef"})]
    stored = [
        Stored(path=Path(f"{number}.json"), record=record) for number, record in enumerate(records)
    ]
    section = published_figures(stored)
    assert section is not None
    assert section.table is not None
    runs, said = section.table["run"], section.table["beside what is published"]
    assert [*runs] == ["perplexity baseline"] * 2
    assert [text.partition(" the published")[0] for text in said] == [
        "Reproduces",
        "Does not reproduce",
    ]
    assert published_figures(stored[1:]) is None

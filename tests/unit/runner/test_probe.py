"""A probe: what it counts against what an engine runs, and what it does not do."""

from dataclasses import replace

import pytest
from runs import INT8, MakeSpec, parameters_of

from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models import cache
from harness.plan.plan import Samples
from harness.runner import probe as room
from harness.runner.probe import Probed, probe

ALL = 281
"""Questions of the embedded data."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENOUGH_S", 0.05)


def test_a_text_is_counted_as_it_is_scored(make_spec: MakeSpec) -> None:
    samples, found = probe(make_spec("task=perplexity", "task.window=64"), None)
    assert samples.items_per_window == 63
    assert samples.available == samples.num_items
    assert samples.num_items % 63 == 0
    # The last token of a window is scored and never run; some windows begin alike.
    assert 0.8 < found.tokens_per_item <= 1.0


def test_documents_are_counted(make_spec: MakeSpec) -> None:
    words = ("task=perplexity_documents", "task.window=64", "task.limit_documents=3")
    samples, found = probe(make_spec(*words), None)
    assert samples.items_per_window is None
    assert samples.available is not None
    assert 0 < samples.num_items < samples.available
    assert found.source.startswith("measured now on 1 document")


def test_questions_that_share_examples_are_not_counted_twice(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of all questions follow from those of 80, within a tenth."""
    monkeypatch.setattr(room, "MOST_COUNTED", 80)
    spec = make_spec("task=mmlu", "task.shots=1")
    samples = Samples(num_items=ALL, available=ALL)
    _, found = probe(spec, samples)
    monkeypatch.setattr(room, "MOST_COUNTED", ALL)
    _, exact = probe(spec, samples)
    assert found.num_tokens == pytest.approx(exact.num_tokens, rel=0.1)


def test_a_probe_leaves_no_trace_in_the_model(make_spec: MakeSpec) -> None:
    spec = make_spec("task=perplexity", "task.window=64", INT8)
    assert spec.model is not None
    loaded = cache.load(spec.model, spec.device)
    before = parameters_of(loaded.module)
    probe(spec, None)
    after = parameters_of(loaded.module)
    assert before.keys() == after.keys()
    assert all(after[name] is before[name] for name in before)


def test_a_comparison_is_timed_once(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine keeps the baseline's hidden states: a second comparison would be too fast."""
    compared = []
    own = LocalEngine.compare

    def compare(self: LocalEngine, *arguments: object) -> object:
        compared.append(1)
        return own(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalEngine, "compare", compare)
    probe(make_spec("task=divergence", "task.window=64", INT8), None)
    assert len(compared) == 1


def test_an_error_of_the_run_is_the_error_of_its_probe(make_spec: MakeSpec) -> None:
    with pytest.raises(DataError, match=r"lower task.window or task.limit_windows"):
        probe(make_spec("task=perplexity", "task.limit_windows=1000000"), None)


def test_times_grow_with_the_tokens_that_run() -> None:
    found = Probed(
        before_s=3.0,
        s_per_token=0.01,
        num_items=100,
        num_tokens=5000.0,
        tokens_per_item=20.0,
        source="measured",
    )
    assert found.seconds_for(100) == 53.0
    assert found.seconds_for(200) == 73.0
    assert replace(found, tokens_per_item=100.0).seconds_for(10) == 3.0, "never below the start"

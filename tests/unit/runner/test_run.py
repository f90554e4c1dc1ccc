"""A run: what it files and says, and that it leaves no trace in the model."""

import json
from dataclasses import replace

import pytest
from runs import INT8, MMLU, PERPLEXITY, MakeSpec, Wrapped, metrics, parameters_of, records

from harness.claims.at_once import NO_BASELINE
from harness.identity import config_hash
from harness.machine import provenance
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.record import Metric, RunRecord, Status, Unit
from harness.results.store import read, read_samples
from harness.runner.run import Outcome, run


@pytest.mark.parametrize("overrides", [PERPLEXITY, MMLU], ids=["perplexity", "mmlu"])
def test_run_files_a_whole_record_and_its_samples(
    overrides: tuple[str, ...], make_spec: MakeSpec, tiny: LoadedModel
) -> None:
    spec = make_spec(INT8, *overrides)
    outcome = run(spec)
    [stored] = records(spec)
    record = stored.record
    assert outcome.path == stored.path
    assert outcome.path.parent == spec.store.root / spec.task.name / "tiny"
    assert outcome.path.name == f"int8_row--{record.run_id}.json"
    assert record.status is Status.OK
    assert record.error is None
    assert record.config_hash == config_hash(spec.resolved, "cpu")
    assert record.config == spec.resolved
    assert record.duration_s is not None
    assert record.duration_s > 0
    assert record.peak_memory is not None
    assert record.peak_memory.device_bytes is None
    assert record.model is not None
    assert record.model.num_parameters == tiny.num_parameters
    assert record.model.float_bytes == 4 * tiny.num_parameters
    assert record.model.fingerprint == "tiny-v1-seed0"
    assert record.quant is not None
    assert (record.quant.name, record.quant.kind) == ("int8_row", "fake-quant")
    assert record.task is not None
    assert record.task.data.items() >= spec.task.data_facts().items()
    assert outcome.headline == record.metrics[0]
    assert outcome.headline is not None
    frame = read_samples(stored)
    assert len(frame) == (12 if spec.task.name == "perplexity" else 4)
    assert frame["id"].is_unique


def test_runs_are_named_after_hash_and_start(make_spec: MakeSpec) -> None:
    record = read(run(make_spec(*PERPLEXITY)).path)
    assert record.run_id.startswith(f"{record.config_hash[:12]}-{record.created:%Y%m%dT%H%M%S}")
    assert record.created.utcoffset() is not None
    assert record.command == provenance.command_line()
    assert json.loads(record.model_dump_json())["created"].endswith("Z")


def test_record_says_running_while_the_task_runs(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    seen: list[RunRecord] = []

    def look(_loaded: LoadedModel) -> None:
        seen.extend(stored.record for stored in records(spec))

    run(replace(spec, task=Wrapped(task=spec.task, before=look)))
    [during] = seen
    [after] = records(spec)
    assert during.status is Status.RUNNING
    assert during.metrics == ()
    assert after.record.status is Status.OK
    assert after.record.run_id == during.run_id
    assert after.record.created == during.created


def test_outcome_says_what_ran_and_what_came_out(make_spec: MakeSpec) -> None:
    outcome = run(make_spec(INT8, *PERPLEXITY))
    summary = outcome.summary()
    metric = metrics(outcome.path)["perplexity"]
    assert outcome.label == "int8_row perplexity"
    assert metric["ci95"] is None, "three documents are too few"
    why = metric["note"].split(";")[0]
    assert why.startswith("no interval from 3 documents")
    expected = f"perplexity {metric['value']:.4f}, n = {12 * 63} tokens ({why}); done"
    assert summary == expected
    assert outcome.compared == (NO_BASELINE,)


def test_a_headline_without_an_interval_says_why(make_spec: MakeSpec) -> None:
    metric = Metric(
        name="perplexity",
        value=20.0,
        unit=Unit.ONE,
        n=4094,
        n_of="token",
        higher_is_better=False,
        note="first; no interval from 2 documents, worth 1.8 of equal size; it takes 5",
    )
    outcome = run(make_spec(*PERPLEXITY))
    assert with_headline(outcome, metric).summary() == (
        "perplexity 20.0000, n = 4094 tokens (no interval from 2 documents, worth 1.8 of equal "
        "size); done"
    )
    one = metric.model_copy(update={"n": 1, "note": None})
    assert with_headline(outcome, one).summary() == "perplexity 20.0000, n = 1 token; done"


def with_headline(outcome: Outcome, metric: Metric) -> Outcome:
    record = outcome.stored.record.model_copy(update={"metrics": (metric,)})
    return replace(outcome, stored=replace(outcome.stored, record=record))


# What is left behind in the model


def test_quantized_weights_do_not_leak_into_the_next_baseline(make_spec: MakeSpec) -> None:
    fresh = run(make_spec("+quant=none", *PERPLEXITY, results="fresh"))
    cache._held.clear()
    quantized = run(make_spec(INT8, *PERPLEXITY))
    held = cache.load(TinyModel(), make_spec().device)
    again = run(make_spec("+quant=none", *PERPLEXITY))
    assert cache.load(TinyModel(), make_spec().device) is held, "one load serves a sweep"
    assert metrics(quantized.path) != metrics(fresh.path)
    assert metrics(again.path) == metrics(fresh.path)
    hashes = [read(outcome.path).samples_sha256 for outcome in (fresh, again, quantized)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_order_of_the_recipes_does_not_matter(make_spec: MakeSpec) -> None:
    recipes = ["int8_row", "fp8_tensor", "int8_tensor"]
    one_way = {r: metrics(run(make_spec(f"+quant={r}", *PERPLEXITY)).path) for r in recipes}
    other_way = {
        r: metrics(run(make_spec(f"+quant={r}", *PERPLEXITY, results="other")).path)
        for r in reversed(recipes)
    }
    assert one_way == other_way
    values = [found["perplexity"]["value"] for found in one_way.values()]
    assert len(set(values)) == len(recipes)


def test_float_weights_are_the_same_objects_after_a_good_run(make_spec: MakeSpec) -> None:
    spec = make_spec(INT8, *MMLU)
    loaded = cache.load(spec.model, spec.device)
    before = parameters_of(loaded.module)
    tied = loaded.module.config.tie_word_embeddings
    run(spec)
    after = parameters_of(loaded.module)
    assert all(after[name] is before[name] for name in before)
    assert loaded.module.config.tie_word_embeddings is tied

"""Metrics of timed requests. A rate is tokens over time; a time is a median over rounds.

    decode = B (G - 1) / median(decode time)     prefill = B S / median(prefill time)
    end_to_end = B (S + G) / median(total time)
    <name>_iqr: third quartile less the first, over the rounds

A median has no interval: the rounds of one process say little about another day. A ratio to the
unquantized model has one, because disturbances affect both models alike
(`harness.tasks.throughput.ratios`). Inter-token latencies are pooled over rounds. A metric that the
engine does not know is null, and its note gives the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from harness.engines.timed import Phase, TimedModel
from harness.machine.energy import LEAST_ENERGY_S
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.throughput.ratios import ratios
from harness.tasks.throughput.roofline import Utilization
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_MATMULS,
    LABELS,
    PHASES,
    RECIPE,
    differing_phases,
    measured,
    reference,
)
from harness.tasks.throughput.times import NO_STAMPS, SubjectTimes
from harness.timing.distribution import (
    Statistics,
    drift,
    least_samples,
    percentile,
    rate_statistics,
    time_statistics,
)

PERCENTILES = (50, 90, 99)
NO_LATENCIES = (
    "the engine stamps the first and the last token of a sequence, not those between them"
)
NO_ARRIVAL = "the engine does not tell when a request arrived"
NOT_TOLD = "the engine does not tell"
of_round = partial(Metric, n_of="round")
of_model = partial(Metric, n=1, n_of="model", higher_is_better=False)


def all_metrics(
    times: Mapping[str, SubjectTimes],
    subjects: Mapping[str, TimedModel],
    uses: Mapping[str, Utilization],
    no_energy: str | None,
    seed: int,
) -> list[Metric]:
    """Return every metric, the headline first.

    Without a recipe, all metrics describe the unquantized model, and there is no ratio.

    Args:
        times: Name of the subject -> its timed requests.
        subjects: Name of the subject -> the model.
        uses: Name of the subject -> its utilization of the machine.
        no_energy: Why there is no energy, or None.
        seed: Seed of the bootstrap.
    """
    name = measured(subjects)
    own, is_quantized = times[name], name == RECIPE
    other = subjects.get(FLOAT32_MATMULS)
    differing = differing_phases(subjects[FLOAT], other) if other is not None else ()
    metrics = [*_speeds(own), *_inter_token_latencies(own)]
    if is_quantized:
        metrics += ratios(times, differing, seed)
        metrics += _baseline_speeds(times[FLOAT], "baseline_", PHASES)
    if differing:
        metrics += _baseline_speeds(times[FLOAT32_MATMULS], "baseline_float32_", differing)
    metrics.append(_drift(reference(subjects), times))
    metrics += _memory(subjects[name])
    metrics += _utilization("", uses[name], own.num_rounds)
    if is_quantized:
        metrics += _utilization("baseline_", uses[FLOAT], times[FLOAT].num_rounds)
    metrics.append(_energy(own, no_energy))
    metrics += _compile(subjects[name])
    return metrics


def all_samples(times: Mapping[str, SubjectTimes]) -> Iterator[SampleScore]:
    """Yield every time that was taken: warm-ups, phases and inter-token latencies.

    TTFT is a sample of its own where it is another time than prefill.
    """
    for name, found in times.items():
        size = found.size
        for index, seconds in enumerate(found.warm_up.seconds):
            yield _sample(f"{name}/warm_up/{index}", f"{name}/warm_up/{index}", seconds, None)
        for index, request in enumerate(found.rounds):
            place, cluster = f"{name}/round/{index}", f"round/{index}"
            yield _sample(f"{place}/prefill", cluster, request.prefill_s, size.batch * size.prompt)
            yield _sample(f"{place}/decode", cluster, request.decode_s, size.batch * size.steps)
            if request.ttft_s not in (None, request.prefill_s):
                yield _sample(f"{place}/ttft", cluster, request.ttft_s, None)
            for step, latency_s in enumerate(request.inter_token_s or ()):
                yield _sample(f"{place}/gap/{step}", cluster, latency_s, size.batch)


def _sample(identity: str, cluster: str, seconds: float, tokens: int | None) -> SampleScore:
    scores = {"seconds": seconds} | ({} if tokens is None else {"tokens": float(tokens)})
    return SampleScore(id=identity, cluster=cluster, scores=scores)


def _baseline_speeds(times: SubjectTimes, prefix: str, phases: Sequence[Phase]) -> Iterator[Metric]:
    """Yield the rates of some phases of the unquantized model, with their spreads."""
    for metric in _speeds(times):
        if metric.name.removesuffix("_iqr") in phases:
            yield metric.model_copy(update={"name": prefix + metric.name})


def _speeds(times: SubjectTimes) -> Iterator[Metric]:
    """Yield rates and times with their spreads."""
    size = times.size
    token_s, both = Unit.TOKEN_PER_S, size.batch * (size.prompt + size.new)
    for name, unit, count, seconds in (
        ("decode", token_s, size.batch * size.steps, times.decode_s),
        ("prefill", token_s, size.batch * size.prompt, times.prefill_s),
        ("prefill_samples", Unit.SAMPLE_PER_S, size.batch, times.prefill_s),
        ("ttft", Unit.SECOND, None, times.ttft_s),
        ("tpot", Unit.SECOND_PER_TOKEN, None, times.tpot_s),
        ("end_to_end", token_s, both, times.total_s),
    ):
        found = None
        if seconds:
            found = time_statistics(seconds) if count is None else rate_statistics(count, seconds)
        yield from _median_and_iqr(name, unit, found, times)


def _median_and_iqr(
    name: str, unit: Unit, found: Statistics | None, times: SubjectTimes
) -> Iterator[Metric]:
    """Yield a median and its spread; both are null if there is none."""
    rounds, warm_ups = times.num_rounds, len(times.warm_up.seconds)
    missing = NO_ARRIVAL if times.rounds else NO_STAMPS
    yield of_round(
        name=name,
        value=found and found.median,
        unit=unit,
        n=rounds,
        higher_is_better=unit in (Unit.TOKEN_PER_S, Unit.SAMPLE_PER_S),
        note=f"median of {rounds} rounds after {warm_ups} warm-ups, CV {found.cv:.1%}"
        if found
        else missing,
    )
    yield of_round(
        name=f"{name}_iqr",
        value=found and found.iqr,
        unit=unit,
        n=rounds,
        higher_is_better=False,
        note="third quartile less the first, over rounds" if found else missing,
    )


def _inter_token_latencies(times: SubjectTimes) -> Iterator[Metric]:
    """Yield percentiles of the inter-token latency."""
    latencies_s = times.inter_token_s
    for percent in PERCENTILES:
        value = percentile(latencies_s, percent)
        note = "inter-token latencies of all rounds; those of one round are not independent"
        if not latencies_s:
            note = NO_LATENCIES if times.rounds else NO_STAMPS
        elif value is None:
            needed = least_samples(percent)
            note = f"needs {needed} inter-token latencies, got {len(latencies_s)}"
        yield Metric(
            name=f"itl_p{percent}",
            value=value,
            unit=Unit.SECOND,
            n=len(latencies_s),
            n_of="gap",
            higher_is_better=False,
            note=note,
        )


def _drift(name: str, times: Mapping[str, SubjectTimes]) -> Metric:
    found = times[name]
    note = (
        f"relative change of the time of the {LABELS[name]}'s requests, "
        "from the first third of the rounds to the last"
    )
    return of_round(
        name="baseline_drift",
        value=drift(found.total_s) if found.rounds else None,
        unit=Unit.ONE,
        n=found.num_rounds,
        higher_is_better=None,
        note=note if found.rounds else NO_STAMPS,
    )


def _memory(subject: TimedModel) -> Iterator[Metric]:
    """Yield the memory of weights and cache."""
    cache = "keys, values and recurrent states that the cache has room for"
    for name, size, note in (
        ("weight_bytes", subject.weight_bytes, "everything the model holds, as stored"),
        ("kv_bytes", subject.cache_bytes, cache),
    ):
        yield of_model(
            name=name,
            value=None if size is None else float(size),
            unit=Unit.BYTE,
            note=NOT_TOLD if size is None else note,
        )


def _utilization(prefix: str, use: Utilization, rounds: int) -> Iterator[Metric]:
    """Yield the utilization of bandwidth and arithmetic."""
    for name, value, note in (
        ("decode_mbu", use.mbu, use.mbu_note),
        ("prefill_mfu", use.mfu, use.mfu_note),
    ):
        yield of_round(
            name=prefix + name,
            value=value,
            unit=Unit.ONE,
            n=rounds,
            higher_is_better=True,
            note=note,
        )


def _energy(times: SubjectTimes, no_energy: str | None) -> Metric:
    """Return the energy of whole requests per new token, or why there is none."""
    tokens = times.size.batch * times.size.new * times.num_rounds
    seconds = sum(times.total_s)
    value, note = None, no_energy
    if times.energy_j is not None and not times.rounds:
        note = NO_STAMPS
    elif times.energy_j is not None and seconds < LEAST_ENERGY_S:
        note = (
            f"needs {LEAST_ENERGY_S:.0f} s of timed requests, since counters are slow, "
            f"got {seconds:.1f} s"
        )
    elif times.energy_j is not None:
        value = times.energy_j / tokens
        note = "whole requests, prefill too; of the device, idle power too"
    return of_round(
        name="energy_per_token",
        value=value,
        unit=Unit.JOULE_PER_TOKEN,
        n=times.num_rounds,
        higher_is_better=False,
        note=note,
    )


def _compile(subject: TimedModel) -> Iterator[Metric]:
    """Yield the time of compiling, if anything was compiled."""
    if (seconds := subject.compile_s) > 0:
        note = "once, before the warm-up ended; no rate contains it"
        yield of_model(name="compile", value=seconds, unit=Unit.SECOND, note=note)

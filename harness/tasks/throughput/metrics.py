"""Metrics of timed requests. A rate is tokens over time; a time is a median over rounds.

    decode = B (G - 1) / median(E2E - TTFT)      prefill = B S / median(TTFT)
    tpot   = median(E2E - TTFT) / (G - 1)        end_to_end = B (S + G) / median(E2E)
    <name>_iqr: third quartile less the first, over the rounds

A median has no interval here: the rounds of one process say little about another day. A ratio to
the unquantized model has one, because disturbances hit both alike
(`harness.tasks.throughput.ratios`). Inter-token latencies are pooled over rounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from harness.engines.local.generation import Phase
from harness.machine.energy import LEAST_ENERGY_S
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.throughput.ratios import ratios
from harness.tasks.throughput.roofline import Utilization
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_MATMULS,
    PHASES,
    RECIPE,
    Requests,
    Subject,
    differing_phases,
)
from harness.timing.distribution import (
    Statistics,
    drift,
    least_samples,
    percentile,
    rate_statistics,
    time_statistics,
)

PERCENTILES = (50, 90, 99)
of_round = partial(Metric, n_of="round")
of_model = partial(Metric, n=1, n_of="model", higher_is_better=False)


def all_metrics(
    requests: Mapping[str, Requests],
    subjects: Mapping[str, Subject],
    uses: Mapping[str, Utilization],
    no_energy: str | None,
    seed: int,
) -> list[Metric]:
    """Return every metric, the headline first.

    Without a recipe, all metrics describe the unquantized model, and there is no ratio.

    Args:
        requests: Name of the subject -> its timed requests.
        subjects: Name of the subject -> the subject.
        uses: Name of the subject -> its utilization of the machine.
        no_energy: Why there is no energy, or None.
        seed: Seed of the bootstrap.
    """
    baseline, name = requests[FLOAT], RECIPE if RECIPE in subjects else FLOAT
    measured, subject = requests[name], subjects[name]
    is_quantized = name == RECIPE
    other = subjects.get(FLOAT32_MATMULS)
    differing = differing_phases(subjects[FLOAT], other) if other is not None else ()
    metrics = [*_speeds(measured), *_inter_token_latencies(measured)]
    if is_quantized:
        metrics += ratios(requests, differing, seed)
        metrics += _baseline_speeds(baseline, "baseline_", PHASES)
    if differing:
        metrics += _baseline_speeds(requests[FLOAT32_MATMULS], "baseline_float32_", differing)
    metrics.append(_drift(baseline))
    metrics += _memory(subject)
    metrics += _utilization("", uses[name], len(measured.rounds))
    if is_quantized:
        metrics += _utilization("baseline_", uses[FLOAT], len(baseline.rounds))
    metrics.append(_energy(measured, no_energy))
    metrics += _compile(subject)
    return metrics


def all_samples(requests: Mapping[str, Requests]) -> Iterator[SampleScore]:
    """Yield every time that was taken: warm-ups, phases and inter-token latencies."""
    for name, found in requests.items():
        size = found.size
        for index, seconds in enumerate(found.warm_up.seconds):
            yield _sample(f"{name}/warm_up/{index}", f"{name}/warm_up/{index}", seconds, None)
        for index, request in enumerate(found.rounds):
            timing, cluster = request.timing, f"round/{index}"
            place = f"{name}/round/{index}"
            yield _sample(f"{place}/prefill", cluster, timing.prefill_s, size.batch * size.prompt)
            yield _sample(f"{place}/decode", cluster, timing.decode_s, size.batch * size.steps)
            for step, latency_s in enumerate(timing.inter_token_s):
                yield _sample(f"{place}/gap/{step}", cluster, latency_s, size.batch)


def _sample(identity: str, cluster: str, seconds: float, tokens: int | None) -> SampleScore:
    scores = {"seconds": seconds} | ({} if tokens is None else {"tokens": float(tokens)})
    return SampleScore(id=identity, cluster=cluster, scores=scores)


def _baseline_speeds(requests: Requests, prefix: str, phases: Sequence[Phase]) -> Iterator[Metric]:
    """Yield the rates of some phases of the unquantized model, with their spreads."""
    for metric in _speeds(requests):
        if metric.name.removesuffix("_iqr") in phases:
            yield metric.model_copy(update={"name": prefix + metric.name})


def _speeds(requests: Requests) -> Iterator[Metric]:
    """Yield rates and times with their spreads."""
    size = requests.size
    prefill_s, decode_s, total_s = requests.prefill_s, requests.decode_s, requests.total_s
    per_token_s = [seconds / size.steps for seconds in decode_s]
    both = size.batch * (size.prompt + size.new)
    token_s, warm_ups = Unit.TOKEN_PER_S, len(requests.warm_up.seconds)
    for name, unit, found in (
        ("decode", token_s, rate_statistics(size.batch * size.steps, decode_s)),
        ("prefill", token_s, rate_statistics(size.batch * size.prompt, prefill_s)),
        ("prefill_samples", Unit.SAMPLE_PER_S, rate_statistics(size.batch, prefill_s)),
        ("ttft", Unit.SECOND, time_statistics(prefill_s)),
        ("tpot", Unit.SECOND_PER_TOKEN, time_statistics(per_token_s)),
        ("end_to_end", token_s, rate_statistics(both, total_s)),
    ):
        yield from _median_and_iqr(name, unit, found, len(decode_s), warm_ups)


def _median_and_iqr(
    name: str, unit: Unit, found: Statistics, rounds: int, warm_ups: int
) -> Iterator[Metric]:
    yield of_round(
        name=name,
        value=found.median,
        unit=unit,
        n=rounds,
        higher_is_better=unit in (Unit.TOKEN_PER_S, Unit.SAMPLE_PER_S),
        note=f"median of {rounds} rounds after {warm_ups} warm-ups, CV {found.cv:.1%}",
    )
    yield of_round(
        name=f"{name}_iqr",
        value=found.iqr,
        unit=unit,
        n=rounds,
        higher_is_better=False,
        note="third quartile less the first, over rounds",
    )


def _inter_token_latencies(requests: Requests) -> Iterator[Metric]:
    """Yield percentiles of the inter-token latency."""
    latencies_s = requests.inter_token_s
    for percent in PERCENTILES:
        value = percentile(latencies_s, percent)
        note = "inter-token latencies of all rounds; those of one round are not independent"
        if value is None:
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


def _drift(baseline: Requests) -> Metric:
    return of_round(
        name="baseline_drift",
        value=drift(baseline.total_s),
        unit=Unit.ONE,
        n=len(baseline.rounds),
        higher_is_better=None,
        note=(
            "relative change of the time of the unquantized model's requests, "
            "from the first third of the rounds to the last"
        ),
    )


def _memory(subject: Subject) -> Iterator[Metric]:
    """Yield the memory of weights and cache."""
    cache = "keys, values and recurrent states that the cache has room for"
    for name, size, note in (
        ("weight_bytes", subject.weight_bytes, "everything the model holds, as stored"),
        ("kv_bytes", subject.generation.cache_bytes, cache),
    ):
        yield of_model(name=name, value=float(size), unit=Unit.BYTE, note=note)


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


def _energy(requests: Requests, no_energy: str | None) -> Metric:
    """Return the energy of whole requests per new token, or why there is none."""
    used = [request.energy_j for request in requests.rounds if request.energy_j is not None]
    tokens = requests.size.batch * requests.size.new * len(used)
    seconds = sum(requests.total_s)
    value, note = None, no_energy
    if no_energy is None and seconds < LEAST_ENERGY_S:
        note = (
            f"needs {LEAST_ENERGY_S:.0f} s of timed requests, since counters are slow, "
            f"got {seconds:.1f} s"
        )
    elif no_energy is None:
        value = sum(used) / tokens
        note = "whole requests, prefill too; of the device, idle power too"
    return of_round(
        name="energy_per_token",
        value=value,
        unit=Unit.JOULE_PER_TOKEN,
        n=len(requests.rounds),
        higher_is_better=False,
        note=note,
    )


def _compile(subject: Subject) -> Iterator[Metric]:
    """Yield the time of compiling, if anything was compiled."""
    if (seconds := subject.generation.compile_s) > 0:
        note = "once, before the warm-up ended; no rate contains it"
        yield of_model(name="compile", value=seconds, unit=Unit.SECOND, note=note)

"""Metrics of timed requests. Every rate is tokens over time; every time is a median over rounds, its spread beside it.

    decode = B (G - 1) / median(E2E - TTFT)      prefill = B S / median(TTFT)      end_to_end = B (S + G) / median(E2E)
    tpot   = median(E2E - TTFT) / (G - 1)        <name>_iqr: third quartile less the first, over the rounds

A median has no interval here: a few rounds of one process say little about another day. A ratio to the float model has one, since
both met the same disturbances (`harness.tasks.throughput.ratios`). Gaps between tokens are pooled over rounds.
"""

from collections.abc import Iterator, Mapping, Sequence

from harness.engines.local.generation import Phase
from harness.machine.energy import LEAST_S
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.throughput.ratios import ratios
from harness.tasks.throughput.roofline import Utilization
from harness.tasks.throughput.subject import (
    FLOAT,
    FLOAT32_PRODUCTS,
    PHASES,
    RECIPE,
    Requests,
    Subject,
    differing_phases,
)
from harness.timing.distribution import (
    Spread,
    drift,
    least_samples,
    percentile,
    rate_spread,
    spread,
)

PERCENTILES = (50, 90, 99)


def all_metrics(
    requests: Mapping[str, Requests],
    subjects: Mapping[str, Subject],
    uses: Mapping[str, Utilization],
    no_energy: str | None,
    seed: int,
) -> list[Metric]:
    """Return every metric of the quantized model beside the float one, or of the float model alone; the headline first.

    Args:
        requests: What was timed, by the name of the subject.
        subjects: The same subjects.
        uses: Shares of the machine, of the float model and of the quantized one.
        no_energy: Why there is no energy, or None.
        seed: Of the bootstrap.
    """
    baseline, name = requests[FLOAT], RECIPE if RECIPE in subjects else FLOAT
    measured, subject = requests[name], subjects[name]
    is_quantized = name == RECIPE
    other = subjects.get(FLOAT32_PRODUCTS)
    differing = differing_phases(subjects[FLOAT], other) if other is not None else ()
    metrics = [*_speeds(measured), *_gaps(measured)]
    if is_quantized:
        metrics += ratios(requests, differing, seed)
        metrics += _baseline_speeds(baseline, "baseline_", PHASES)
    if differing:
        metrics += _baseline_speeds(requests[FLOAT32_PRODUCTS], "baseline_float32_", differing)
    metrics.append(_drift(baseline))
    metrics += _memory(subject)
    metrics += _uses("", uses[name], len(measured.rounds))
    if is_quantized:
        metrics += _uses("baseline_", uses[FLOAT], len(baseline.rounds))
    metrics.append(_energy(measured, no_energy))
    metrics += _compile(subject)
    return metrics


def items(requests: Mapping[str, Requests]) -> Iterator[SampleScore]:
    """Yield every time that was taken: warm-ups, phases and gaps."""
    for name, found in requests.items():
        size = found.size
        for index, seconds in enumerate(found.warm_up.seconds):
            yield _item(f"{name}/warm_up/{index}", f"{name}/warm_up/{index}", seconds, None)
        for index, request in enumerate(found.rounds):
            timing, cluster = request.timing, f"round/{index}"
            place = f"{name}/round/{index}"
            yield _item(f"{place}/prefill", cluster, timing.prefill_s, size.batch * size.prompt)
            yield _item(f"{place}/decode", cluster, timing.decode_s, size.batch * size.steps)
            for step, gap in enumerate(timing.gaps_s):
                yield _item(f"{place}/gap/{step}", cluster, gap, size.batch)


def _item(identity: str, cluster: str, seconds: float, tokens: int | None) -> SampleScore:
    scores = {"seconds": seconds} | ({} if tokens is None else {"tokens": float(tokens)})
    return SampleScore(id=identity, cluster=cluster, scores=scores)


def _baseline_speeds(requests: Requests, prefix: str, phases: Sequence[Phase]) -> Iterator[Metric]:
    """Yield the rates of some phases of a float path, with their spreads."""
    for metric in _speeds(requests):
        if metric.name.removesuffix("_iqr") in phases:
            yield metric.model_copy(update={"name": prefix + metric.name})


def _speeds(requests: Requests) -> Iterator[Metric]:
    """Yield rates and times with their spreads."""
    size = requests.size
    prefill_s, decode_s, total_s = requests.prefill_s, requests.decode_s, requests.total_s
    per_token = [seconds / size.steps for seconds in decode_s]
    both = size.batch * (size.prompt + size.new)
    token_s, warm_ups = Unit.TOKEN_PER_S, len(requests.warm_up.seconds)
    for name, unit, found in (
        ("decode", token_s, rate_spread(size.batch * size.steps, decode_s)),
        ("prefill", token_s, rate_spread(size.batch * size.prompt, prefill_s)),
        ("prefill_samples", Unit.SAMPLE_PER_S, rate_spread(size.batch, prefill_s)),
        ("ttft", Unit.SECOND, spread(prefill_s)),
        ("tpot", Unit.SECOND_PER_TOKEN, spread(per_token)),
        ("end_to_end", token_s, rate_spread(both, total_s)),
    ):
        yield from _with_spread(name, unit, found, len(decode_s), warm_ups)


def _with_spread(
    name: str, unit: Unit, found: Spread, rounds: int, warm_ups: int
) -> Iterator[Metric]:
    note = f"median of {rounds} rounds after {warm_ups} warm-ups, CV {found.cv:.1%}"
    yield Metric(
        name=name,
        value=found.median,
        unit=unit,
        n=rounds,
        n_of="round",
        higher_is_better=unit in (Unit.TOKEN_PER_S, Unit.SAMPLE_PER_S),
        note=note,
    )
    yield Metric(
        name=f"{name}_iqr",
        value=found.iqr,
        unit=unit,
        n=rounds,
        n_of="round",
        higher_is_better=False,
        note="third quartile less the first, over rounds",
    )


def _gaps(requests: Requests) -> Iterator[Metric]:
    """Yield percentiles of the time between tokens."""
    gaps = requests.gaps_s
    for percent in PERCENTILES:
        value = percentile(gaps, percent)
        note = "gaps of all rounds together; those of one round are not independent"
        if value is None:
            note = f"needs {least_samples(percent)} gaps between tokens, got {len(gaps)}"
        yield Metric(
            name=f"itl_p{percent}",
            value=value,
            unit=Unit.SECOND,
            n=len(gaps),
            n_of="gap",
            higher_is_better=False,
            note=note,
        )


def _drift(baseline: Requests) -> Metric:
    return Metric(
        name="baseline_drift",
        value=drift(baseline.total_s),
        unit=Unit.ONE,
        n=len(baseline.rounds),
        n_of="round",
        higher_is_better=None,
        note="how much longer requests of the float model took in the last third of the rounds than in the first",
    )


def _memory(subject: Subject) -> Iterator[Metric]:
    """Yield what weights and cache take."""
    for name, size, note in (
        ("weight_bytes", subject.weight_bytes, "everything the model holds, as stored"),
        (
            "kv_bytes",
            subject.generation.cache_bytes,
            "keys, values and recurrent states that the cache has room for",
        ),
    ):
        yield Metric(
            name=name,
            value=float(size),
            unit=Unit.BYTE,
            n=1,
            n_of="model",
            higher_is_better=False,
            note=note,
        )


def _uses(prefix: str, use: Utilization, rounds: int) -> Iterator[Metric]:
    """Yield the shares of the machine."""
    for name, value, note in (
        ("decode_mbu", use.mbu, use.mbu_note),
        ("prefill_mfu", use.mfu, use.mfu_note),
    ):
        yield Metric(
            name=prefix + name,
            value=value,
            unit=Unit.ONE,
            n=rounds,
            n_of="round",
            higher_is_better=True,
            note=note,
        )


def _energy(requests: Requests, no_energy: str | None) -> Metric:
    """Return the energy of whole requests for each new token, or why it is absent."""
    used = [request.energy_j for request in requests.rounds if request.energy_j is not None]
    tokens = requests.size.batch * requests.size.new * len(used)
    seconds = sum(requests.total_s)
    value, note = None, no_energy
    if no_energy is None and seconds < LEAST_S:
        note = (
            f"needs {LEAST_S:.0f} s of timed requests, since counters are slow, got {seconds:.1f} s"
        )
    elif no_energy is None:
        value, note = (
            sum(used) / tokens,
            "whole requests, prefill too; of the device, idle power too",
        )
    return Metric(
        name="energy_per_token",
        value=value,
        unit=Unit.JOULE_PER_TOKEN,
        n=len(requests.rounds),
        n_of="round",
        higher_is_better=False,
        note=note,
    )


def _compile(subject: Subject) -> Iterator[Metric]:
    """Yield the time that compiling took, if anything was compiled."""
    if (seconds := subject.generation.compile_s) > 0:
        yield Metric(
            name="compile",
            value=seconds,
            unit=Unit.SECOND,
            n=1,
            n_of="model",
            higher_is_better=False,
            note="once, before the warm-up ended; no rate contains it",
        )

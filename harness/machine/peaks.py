"""Peaks of this machine: the lines of a roofline (Williams, Waterman and Patterson, CACM 2009).

    copy          y <- x, too large for any cache; read and write both count                [byte/s]
    read/<n>      y = A x, a matrix of n bytes that is read again and again                 [byte/s]
    product/<t>   C = A B^T of square matrices of type t, 2 n^3 operations                    [op/s]

`read` is the line for decoding, which reads the same weights for each token. Its size matters: a
machine with 260 MB of last-level cache reads 64 MB at 25 GB/s and 512 MB at 16 GB/s. Each peak is
the best of many repetitions, because disturbances only slow down.

A child process measures, because its buffers would dominate the peak memory of a run of a small
model: `python -m harness.machine.peaks DEVICE THREADS QUESTION...` answers in JSON.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.timing.clock import NS, clock_of

COPY = "copy"
COPY_BYTES = 2**29
READ_BYTES = (2**24, 2**30)
"""Smallest and largest matrix that is read; other sizes are clamped to them [byte]."""
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Sizes of the square matrices by type of device; the best one counts."""
LEAST_RUNS = 5
BUDGET_S = 0.5
"""Least time for each question, beside `LEAST_RUNS` [s]."""
TIMEOUT_S = 300.0
MATMUL_TYPES = ("float32", "bfloat16", "float16", "int8", "float8_e4m3fn")
"""Types that `matmul` knows a peak of."""

_known: dict[tuple[torch.device, str], float] = {}


def read_bandwidth(num_bytes: int) -> str:
    """Return the question for reading `num_bytes` bytes again and again."""
    least, most = READ_BYTES
    return f"read/{min(max(num_bytes, least), most)}"


def matmul(dtype: str) -> str:
    """Return the question for matmuls of a type, such as `bfloat16`."""
    return f"product/{dtype}"


def peaks(
    device: torch.device, questions: Iterable[str], *, again: bool = False
) -> dict[str, float]:
    """Return the peaks, measured once in a process.

    Args:
        device: The device to measure.
        questions: Such as `copy`, `read/1000000` or `product/bfloat16`.
        again: Measure anew and keep the better answer.

    Raises:
        RuntimeError: The device does not support a question, or has too little memory for it.
    """
    asked = list(dict.fromkeys(questions))
    missing = [question for question in asked if again or (device, question) not in _known]
    if missing:
        for question, answer in _ask(device, missing).items():
            key = (device, question)
            _known[key] = max(answer, _known.get(key, 0.0))
    return {question: _known[device, question] for question in asked}


def _ask(device: torch.device, questions: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, str(device), str(torch.get_num_threads())]
    try:
        done = subprocess.run(
            [*command, *questions], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as reason:
        raise RuntimeError(f"no answer after {TIMEOUT_S:.0f} s") from reason
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(last)
    answers: dict[str, float] = json.loads(done.stdout)
    return answers


def measure_peak(device: torch.device, question: str) -> float:
    """Answer a question in this process [byte/s or op/s]."""
    kind, _, argument = question.partition("/")
    runs = {"copy": _copies, "read": _reads, "product": _matmuls}[kind](device, argument)
    return max(amount / _best(run, device) for amount, run in runs)


Run = tuple[float, Callable[[], object]]
"""Bytes or operations of one run, and the run."""


def _copies(device: torch.device, _: str) -> Iterator[Run]:
    x = torch.ones(COPY_BYTES // 4, device=device)
    y = torch.empty_like(x)
    yield 2 * x.nbytes, lambda: y.copy_(x)


def _reads(device: torch.device, num_bytes: str) -> Iterator[Run]:
    a = torch.ones(int(num_bytes) // 4 // 4096, 4096, device=device)
    x = torch.ones(4096, device=device)
    yield a.nbytes, lambda: torch.mv(a, x)
    yield a.nbytes, lambda: a.sum()


def _matmuls(device: torch.device, dtype: str) -> Iterator[Run]:
    for side in SIDES[device.type]:
        yield 2 * side**3, _square(device, getattr(torch, dtype), side)


def _square(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    drawn = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device)
    if dtype is torch.int8:
        codes = (drawn * 32).clamp(-127, 127).to(dtype)
        return lambda: torch._int_mm(codes, codes.T)  # noqa: SLF001 - no public name for it
    a = drawn.to(dtype)
    if dtype.itemsize == 1:
        one = torch.ones((), device=device)
        return lambda: torch._scaled_mm(  # noqa: SLF001 - no public name for it
            a, a.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    return lambda: F.linear(a, a)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of many runs after a warm-up [s]."""
    clock = clock_of(device)
    run()
    found: list[int] = []
    while len(found) < LEAST_RUNS or sum(found) < BUDGET_S * 1e9:
        start = clock.now()
        run()
        found.append(clock.now() - start)
    return min(found) * NS


def main() -> None:
    """Answer the questions of the command line."""
    _, device, threads, *questions = sys.argv
    torch.set_num_threads(int(threads))
    answers = {question: measure_peak(torch.device(device), question) for question in questions}
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()

"""The record of a run: one JSON file that says what ran, what came out, and what it was made with.

The schema is closed: an unknown field is an error. It is strict about numbers: no NaN and no
infinity; a missing value is null, and a note says why. `docs/record.schema.json` is generated from
these classes, and a test keeps it current.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from harness.stats import wilson

SCHEMA_VERSION: Final = 1
FLOAT_CHECKPOINT: Final = "float checkpoint"
"""`ModelInfo.origin` of weights that were published in a float type and loaded as they are."""


class Unit(StrEnum):
    """The units of metrics; there are no others."""

    ONE = "1"
    FRACTION = "fraction"
    """In [0, 1]. Reports show percentages, and differences in percentage points."""
    NAT_PER_TOKEN = "nat/token"  # noqa: S105 - a unit, not a secret
    NAT_PER_CHARACTER = "nat/character"
    BIT_PER_BYTE = "bit/byte"
    DB = "dB"
    COUNT = "count"
    TOKEN_PER_S = "token/s"  # noqa: S105 - a unit, not a secret
    SAMPLE_PER_S = "sample/s"
    SECOND = "s"
    SECOND_PER_TOKEN = "s/token"  # noqa: S105 - a unit, not a secret
    BYTE = "byte"
    JOULE_PER_TOKEN = "J/token"  # noqa: S105 - a unit, not a secret


class Status(StrEnum):
    """How far a run came."""

    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    INVALID = "invalid"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    """The recipe cannot run on this device or model; nothing else was run in its place."""


CLOSED: Final = ConfigDict(extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


class _Closed(BaseModel):
    """Base of the schema: unknown fields, NaN and infinity are errors, and nothing changes."""

    model_config = CLOSED | ConfigDict(frozen=True)


class Metric(_Closed):
    """One number, with its unit, n, interval and direction."""

    name: str
    value: float | None
    """Finite, or null with a note."""
    unit: Unit
    n: int
    """How many questions, tokens or windows the number is over."""
    n_of: str
    """What `n` counts, such as `question`."""
    ci95: tuple[float, float] | None = None
    """95 % confidence interval."""
    higher_is_better: bool | None
    """None for a number that is neither good nor bad."""
    note: str | None = None
    """Why a value or an interval is missing, or how to read it."""

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.value is None and not self.note:
            raise ValueError(f"metric {self.name} must have a value or a note that says why not")
        return self

    @classmethod
    def count(
        cls, name: str, value: int, *, of: int, item: str, higher_is_better: bool | None = None
    ) -> Self:
        """Return a count, such as 3 ties `of` 100 questions; `item` is then `question`."""
        return cls(
            name=name,
            value=value,
            unit=Unit.COUNT,
            n=of,
            n_of=item,
            higher_is_better=higher_is_better,
        )

    @classmethod
    def share(
        cls, name: str, hits: int, *, of: int, item: str, higher_is_better: bool | None
    ) -> Self:
        """Return `hits / of` with Wilson's interval."""
        return cls(
            name=name,
            value=hits / of,
            unit=Unit.FRACTION,
            n=of,
            n_of=item,
            ci95=wilson(hits, of),
            higher_is_better=higher_is_better,
        )


class ModelInfo(_Closed):
    """The model that was measured."""

    name: str
    dtype: str
    device: str
    attention: str
    """Attention implementation of transformers."""
    products: Literal["native", "float32"] = "native"
    """How linear layers multiply; `float32` replaces a 16-bit type that the processor lacks."""
    fingerprint: str
    """Hash of the weights, or commit on the hub."""
    baseline: str | None = None
    """Fingerprint of `model.baseline`, the unquantized model that a checkpoint was made of."""
    revision: str | None
    """Commit on the hub; null for a local model."""
    architecture: str | None = None
    """Class of the model in config.json, such as `LlamaForCausalLM`; null in older records."""
    origin: str
    """Where the float weights come from, such as a dequantized 4-bit file."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: only the shapes are those of the model, which is enough for timing."""
    num_parameters: int
    float_bytes: int
    """Size of all parameters in the model's type, shared parameters counted once [byte]."""


class BaselineInfo(_Closed):
    """The unquantized model that a model was compared with."""

    relation: Literal["own float weights", "second model", "itself"]
    """`own float weights`: the model without its recipe. `second model`: `model.baseline`, loaded
    beside it. `itself`: the recipe changes nothing, so every difference is 0 by definition."""
    name: str
    fingerprint: str
    revision: str | None
    origin: str
    """Where its weights come from."""
    dtype: str


class SkippedWeight(_Closed):
    """A matrix that was not quantized."""

    name: str
    shape: tuple[int, ...]
    reason: str


# A record has hundreds of layers: a class with slots takes a fifth of a model's memory.
@dataclass(config=CLOSED, frozen=True, kw_only=True, slots=True)
class LayerReport:
    """One quantized weight."""

    name: str
    rule: str
    format: str
    shape: tuple[int, ...]
    bits_per_weight: float
    """Size of codes and scales, over the number of weights [bit]."""
    rel_error: float
    """Norm of the error over norm of the weight (Frobenius)."""
    short_tail: bool
    """Whether the last block of a row is shorter than the others."""
    kernel: str | None = None
    """What multiplies with the weight; null in older records."""
    stored_bytes: int | None = None
    """Memory of the quantized weight; null in older records [byte]."""


class Compute(_Closed):
    """How exactly the layers multiply on the processor of the run; see `harness.backends.probe`."""

    dtype: Literal["float32", "float16", "bfloat16"] | None
    """The widest type whose rounding of operands and results explains the error; null if no type
    does."""
    rel_error: float
    """Largest relative error of a matmul (Frobenius), against float64 on the layer's own codes."""
    layer: str
    """The layer with the largest error."""

    @property
    def words(self) -> str:
        """Such as `as exact as bfloat16 (relative error 3.2e-03 in model.layers.0.mlp.up_proj)`."""
        how = f"as exact as {self.dtype}" if self.dtype else "less exact than bfloat16"
        return f"{how} (relative error {self.rel_error:.1e} in {self.layer})"


class CalibrationInfo(_Closed):
    """The text that a recipe was fitted to. Another text gives other numbers."""

    text: str
    """Data set and split, or file name."""
    sha256: str
    """Hash of the whole text."""
    num_sequences: int
    """Sequences drawn from the text."""
    length: int
    """Tokens of a sequence."""
    seed: int
    """Seed of the draw."""


class QuantReport(_Closed):
    """How the model was quantized, layer by layer."""

    name: str
    """Name of the recipe."""
    formats: dict[str, str]
    """Rule name -> format name of the weights."""
    input_formats: dict[str, str] = {}
    """Rule name -> format name of the activations that enter a layer, for rules that round them."""
    output_formats: dict[str, str] = {}
    """Rule name -> format name of the activations that leave a layer."""
    cache_format: str | None = None
    """Format of the keys and values in the KV cache; null if they stay in float."""
    kind: Literal["none", "fake-quant", "real"]
    """`fake-quant`: values are rounded to the format, and stored and multiplied in the model's
    float type. `real`: codes and scales are stored and multiplied."""
    backend: str = "fake"
    """The backend that installed the weights, such as `torchao`."""
    compute: Compute | None = None
    """How exactly the layers multiply, as measured; null in older records, and if no linear layer
    has codes."""
    num_quantized: int
    """Parameters that were quantized."""
    coverage: float
    """Share of the parameters of a text run that was quantized, in [0, 1]."""
    bits_per_weight: float
    """Mean over the quantized parameters, scales included; the bits of the float type if no
    parameter was quantized [bit]."""
    model_bytes: int
    """Size of the model with packed codes, float parameters included [byte]."""
    stored_bytes: int | None = None
    """Size of the model in memory, float parameters included; null in older records [byte]."""
    skipped: tuple[SkippedWeight, ...]
    layers: tuple[LayerReport, ...]
    calibration: CalibrationInfo | None = None
    """What the recipe was fitted to; null for a recipe without a text, and in older records."""


class TaskInfo(_Closed):
    """What was measured, on which data."""

    name: str
    version: int
    """A change that moves numbers raises the version; tables never mix versions."""
    protocol: str
    """What defines the number, in one line."""
    data: dict[str, Any]
    """Name, hashes and size of the data."""
    needs_model: bool = True
    """False for a task without a model: its record has neither `model` nor `quant`."""


class Hardware(NamedTuple):
    """What a speed depends on. Runs of a timed task on other hardware are other runs."""

    cpu: str
    threads: int
    gpu: str | None


class Provenance(_Closed):
    """Code, packages and machine of a run."""

    git_commit: str | None
    git_dirty: bool | None
    packages: dict[str, str]
    python: str
    os: str
    cpu: str
    cpu_flags: tuple[str, ...]
    """Instruction sets that decide speed and numerics, such as avx512_bf16."""
    threads: int
    gpu: str | None
    cuda: str | None
    torch_flags: dict[str, str]
    seeds: dict[str, int]
    foreign_code: dict[str, str] = {}
    """SHA-256 of the source of each package that the configuration uses, except quant-harness."""
    host: str | None = None
    """Name of the machine; null if it has none, and in records from before 2026-12."""
    gpu_uuid: str | None = None
    """UUID of the GPU, as `nvidia-smi -L` prints it; null on a CPU and in older records."""
    settings: dict[str, str] = {}
    """Settings that decide speed, where they can be read: clock governor, turbo, microcode; driver,
    clocks and power limit of a GPU."""

    @property
    def hardware(self) -> Hardware:
        """What a speed depends on."""
        return Hardware(cpu=self.cpu, threads=self.threads, gpu=self.gpu)


class PeakMemory(_Closed):
    """The most memory that was in use at once."""

    process_bytes: int | None
    """Resident memory of the process; null if the system does not tell [byte]."""
    since: Literal["run", "process"]
    """`run`: since the run began. `process`: since the process began, on a system that cannot reset
    its counter."""
    device_bytes: int | None
    """Memory that torch allocated on the GPU; null on a CPU [byte]."""


class SampleScore(_Closed):
    """One sample: a question or a window. It goes to the samples file, not to the record."""

    id: str
    cluster: str
    """Subject of a question; document of a window, or its first and last document."""
    scores: dict[str, float]
    answer: str | None = None
    token_nll: tuple[float, ...] | None = None
    """-ln p of each scored token, in order [nat]."""
    token_kl: tuple[float, ...] | None = None
    """KL divergence from the baseline at each of these tokens [nat]; only where it is measured, and
    in no record from before 2026-12."""
    token_document: tuple[int, ...] | None = None
    """The document of each of these tokens. Documents are independent, tokens of one document are
    not."""


class RunRecord(_Closed):
    """One run.

    **The order of the fields is the format.** Files, diffs and readers rely on it, in this class
    and in the classes of its fields. When you change a field:

    - Add it where it belongs for a reader, with a default: older records lack it. Say in its note
      what null means in an older record.
    - Never rename, reorder or remove a field, and never narrow its type: records on file would be
      unreadable. A change that cannot be avoided raises `SCHEMA_VERSION`.
    - Write the schema anew: `python -m harness.results.schema > docs/record.schema.json`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    """Start of the configuration hash and start time; also the end of the file name."""
    config_hash: str
    """Identity of the run, see `harness.identity`; together with model and data."""
    status: Status
    created: datetime
    """Start, UTC."""
    attempt: int | None = None
    """Number of this run among the runs of its configuration, from 1, whatever clocks say. Null in
    older records, which come before all others."""
    duration_s: float | None = None
    peak_memory: PeakMemory | None = None
    command: str
    config: dict[str, Any]
    """The resolved configuration."""
    recipe: str | None = None
    """Name of the recipe and what was changed in it, also after a failure; null if older."""
    model: ModelInfo | None = None
    baseline: BaselineInfo | None = None
    """What the model was compared with; null if the task compares nothing, and in older records."""
    quant: QuantReport | None = None
    task: TaskInfo | None = None
    metrics: tuple[Metric, ...] = ()
    samples_file: str | None = None
    """Name of the parquet file beside the record."""
    samples_sha256: str | None = None
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """The chain of exceptions of a run that failed."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.status is not Status.OK:
            return self
        alone = self.task is not None and not self.task.needs_model
        if not self.task or not (alone or (self.model and self.quant)):
            raise ValueError(
                "a record with status ok must have model, quant and task (task alone if the task "
                "needs no model)"
            )
        return self

    def metric(self, name: str) -> Metric | None:
        """Return the metric with a name, or None."""
        return next((metric for metric in self.metrics if metric.name == name), None)

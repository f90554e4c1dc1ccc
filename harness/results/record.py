"""The record of a run: one JSON file that says what ran, what came out, and what it was made with.

The schema is closed (an unknown field is an error) and strict about numbers: no NaN, no infinity; a value that could
not be had is null and a note says why. `docs/record.schema.json` is generated from these classes, and a test keeps it
current.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from harness.stats import wilson

SCHEMA_VERSION: Final = 1


class Unit(StrEnum):
    """The closed list of units."""

    ONE = "1"
    FRACTION = "fraction"
    """In [0, 1]; reports show it as a percentage, and differences in percentage points."""
    NAT_PER_TOKEN = "nat/token"  # noqa: S105 - a unit, not a secret
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


class _Closed(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class Metric(_Closed):
    """One number, with what is needed to read it."""

    name: str
    value: float | None
    """Finite, or null with a note."""
    unit: Unit
    n: int
    """Items behind the number: questions, tokens, windows."""
    n_of: str
    """What `n` counts, such as `question`."""
    ci95: tuple[float, float] | None = None
    """95 % confidence interval."""
    higher_is_better: bool | None
    """None for a count that is neither."""
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
        """Return a number of items, such as 3 ties `of` 100 questions; `item` is `question`."""
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
    """What multiplies the matrices of linear layers; `float32` stands in for a 16-bit type that the processor lacks."""
    fingerprint: str
    """Hash of the weights, or commit of the hub."""
    baseline: str | None = None
    """Fingerprint of `model.baseline`, the float model that a quantized checkpoint was made of, if that was said."""
    revision: str | None
    """Commit of the hub, if it came from there."""
    architecture: str | None = None
    """Class of the model that the folder's config.json names, such as `LlamaForCausalLM`; null in older records."""
    origin: str
    """What the float weights are, such as a dequantized 4-bit file."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: only the shapes are the model's, for timing."""
    num_parameters: int
    float_bytes: int
    """Size of all parameters at the model's type, shared ones counted once [byte]."""


class BaselineInfo(_Closed):
    """The float model that a model was compared with."""

    relation: Literal["own float weights", "second model", "itself"]
    """`own float weights`: the model without its recipe. `second model`: `model.baseline`, loaded beside it. `itself`: the recipe
    changes nothing, so every difference is 0 by definition."""
    name: str
    fingerprint: str
    revision: str | None
    origin: str
    """What its weights are."""
    dtype: str


class SkippedWeight(_Closed):
    """A matrix that stayed in float."""

    name: str
    shape: tuple[int, ...]
    reason: str


class LayerReport(_Closed):
    """One quantized weight."""

    name: str
    rule: str
    format: str
    shape: tuple[int, ...]
    bits_per_weight: float
    """Codes and scales, over the number of weights [bit]."""
    rel_error: float
    """Relative Frobenius error of the weight."""
    short_tail: bool
    """The last block of a row is shorter than the others."""
    kernel: str | None = None
    """What multiplies with the weight; null in records made before it was kept."""
    stored_bytes: int | None = None
    """Memory of what stands for the weight now; null in records made before it was kept [byte]."""


class Compute(_Closed):
    """How exactly the layers of a model multiply on the processor of the run; see `harness.backends.probe`."""

    dtype: Literal["float32", "float16", "bfloat16"] | None
    """The widest type whose rounding of operands and results explains the error; null if none does."""
    rel_error: float
    """Largest relative error (Frobenius norms) of a matmul, compared with float64 on the layer's own codes."""
    layer: str
    """The layer with that error."""

    @property
    def words(self) -> str:
        """`as exact as bfloat16 (relative error 3.2e-03 in model.layers.0.mlp.up_proj)`."""
        how = f"as exact as {self.dtype}" if self.dtype else "less exact than bfloat16"
        return f"{how} (relative error {self.rel_error:.1e} in {self.layer})"


class CalibrationInfo(_Closed):
    """The text that a recipe was fitted to: another text gives other numbers under the same configuration."""

    text: str
    """Data set and split, or file name."""
    sha256: str
    """Hash of the whole text."""
    num_sequences: int
    """Sequences drawn from the text."""
    length: int
    """Tokens of each."""
    seed: int
    """Of the draw."""


class QuantReport(_Closed):
    """What became of the weights."""

    name: str
    """Name of the recipe."""
    formats: dict[str, str]
    """Rule name -> format name of the weights."""
    input_formats: dict[str, str] = {}
    """Rule name -> format name of the layers' inputs, for the rules that round them."""
    output_formats: dict[str, str] = {}
    """The same for the layers' outputs."""
    cache_format: str | None = None
    """Format of the keys and values that the KV cache takes; null leaves them in float."""
    kind: Literal["none", "fake-quant", "real"]
    """`fake-quant`: values rounded to the format, stored and multiplied in the model's float type. `real`: codes and scales are
    what is stored and multiplied."""
    backend: str = "fake"
    """What put the weights in place, such as `torchao`."""
    compute: Compute | None = None
    """How exactly they are multiplied, as measured; null in older records, and where no linear layer has codes."""
    num_quantized: int
    """Parameters that were quantized."""
    coverage: float
    """Share of the parameters that a text run needs that were quantized, in [0, 1]."""
    bits_per_weight: float
    """Mean over the quantized parameters, scales included; the float type's bits if there are none [bit]."""
    model_bytes: int
    """Size of the model if the codes were stored packed, float parameters included [byte]."""
    stored_bytes: int | None = None
    """Size of the model as it lies in memory, float parameters included; null in older records [byte]."""
    skipped: tuple[SkippedWeight, ...]
    layers: tuple[LayerReport, ...]
    calibration: CalibrationInfo | None = None
    """What the recipe was fitted to; null for a recipe that looks at no text, and in records made before it was kept."""


class TaskInfo(_Closed):
    """What was measured."""

    name: str
    version: int
    """A change that moves numbers raises it; tables never mix versions."""
    protocol: str
    """Everything that defines the number, in one line."""
    data: dict[str, Any]
    """Name, hashes and size of the data."""
    needs_model: bool = True
    """False if it measures without a model; then the record has neither `model` nor `quant`."""


class Hardware(NamedTuple):
    """What a speed depends on: runs of a timed task on other hardware are other runs."""

    cpu: str
    threads: int
    gpu: str | None


class Provenance(_Closed):
    """What a run was made with."""

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
    """SHA-256 of the source of each package outside of quant-harness that the configuration names a class of."""
    host: str | None = None
    """Name of the machine; null in records from before 2026-12 and where it has none."""
    gpu_uuid: str | None = None
    """What names the GPU in every process, as `nvidia-smi -L` says it; null on a CPU and in older records."""
    settings: dict[str, str] = {}
    """What else decides speed, as far as it can be read: clock governor, turbo, microcode; driver, clocks and power limit of a GPU."""

    @property
    def hardware(self) -> Hardware:
        """What a speed depends on."""
        return Hardware(cpu=self.cpu, threads=self.threads, gpu=self.gpu)


class PeakMemory(_Closed):
    """The most memory that was in use at once."""

    process_bytes: int | None
    """Resident memory of the process; null where the system does not tell [byte]."""
    since: Literal["run", "process"]
    """Since the run began, or, where the system cannot count anew, since the process did."""
    device_bytes: int | None
    """Memory that torch had allocated on the GPU; null on a CPU [byte]."""


class SampleScore(_Closed):
    """One item: a question or a window. Written to the samples file, not to the record."""

    id: str
    cluster: str
    """What the item is of: a subject; the document, or the first and the last of them."""
    scores: dict[str, float]
    answer: str | None = None
    token_nll: tuple[float, ...] | None = None
    """-ln p of each scored token, in order [nat]."""
    token_document: tuple[int, ...] | None = None
    """The document that each of these tokens begins in. Tokens of one document are not independent; documents are."""


class RunRecord(_Closed):
    """One run. The order of the fields is part of the format."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    """Configuration hash and start time; also the end of the file name."""
    config_hash: str
    """SHA-256 of the canonical configuration; with model and data it is the run's identity."""
    status: Status
    created: datetime
    """Start, UTC."""
    attempt: int | None = None
    """How often this configuration has been run with this one, counted from 1 under the claim, whatever clocks say; null in older
    records, which come before all others."""
    duration_s: float | None = None
    peak_memory: PeakMemory | None = None
    command: str
    config: dict[str, Any]
    """The resolved configuration."""
    recipe: str | None = None
    """Name of the recipe with what was changed in it, also of a run that did not end well; null in records made before it was kept."""
    model: ModelInfo | None = None
    baseline: BaselineInfo | None = None
    """What the model was compared with; null for a task that compares nothing, and in records made before it was kept."""
    quant: QuantReport | None = None
    task: TaskInfo | None = None
    metrics: tuple[Metric, ...] = ()
    samples_file: str | None = None
    """Name of the parquet file beside the record."""
    samples_sha256: str | None = None
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """The chain of exceptions of a run that did not end well."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.status is not Status.OK:
            return self
        alone = self.task is not None and not self.task.needs_model
        if not self.task or not (alone or (self.model and self.quant)):
            raise ValueError(
                "a record with status ok must have model, quant and task (the last alone if it needs no model)"
            )
        return self

    def metric(self, name: str) -> Metric | None:
        """Return the metric of a name, or None."""
        return next((metric for metric in self.metrics if metric.name == name), None)

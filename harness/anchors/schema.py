"""What a file of `conf/anchors` holds: tables of published figures with their protocols.

A protocol is written in the harness's own terms: a task, and the options of that task that are not
null. All other options, such as limits, must be null in a run of the same protocol.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Option = bool | int | str | tuple[str, ...]
"""Value of a task's option."""
Positive = Annotated[float, Field(gt=0)]


class _Closed(BaseModel):
    """Base of the schema: unknown keys, NaN and infinity are errors, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PublishedValue(_Closed):
    """One figure of a table."""

    model: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Name on the hub, `owner/name`."""
    revision: str | None = None
    """Commit on the hub, if the source says it."""
    quantization: str | None = None
    """What the source says of the quantization; null for the unquantized model."""
    recipe: str | None = None
    """The recipe of this harness that does the same; null if there is none."""
    value: float
    tolerance: Positive | None = None
    """Takes the place of the table's tolerance."""
    why: str | None = None
    """Why this tolerance."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.recipe is not None and self.quantization is None:
            raise ValueError("quantization must be given for a figure with a recipe")
        if (self.tolerance is None) is not (self.why is None):
            raise ValueError("tolerance and why must be given together")
        return self


class PublishedTable(_Closed):
    """Figures of one source under one protocol."""

    source: str
    """Project or paper, and the file, table or issue in it."""
    url: Annotated[str, Field(pattern=r"^https://\S+$")]
    protocol: str
    """The protocol in the words of the source."""
    task: str | None
    """The task of this harness with this protocol; null if there is none."""
    options: Mapping[str, Option] = {}
    """Options of the task that are not null."""
    data: Literal["wikitext2-raw-v1/test", "mmlu/test"] | None = None
    """Text or questions of `data=hub`; null for a task that brings its own."""
    metric: str
    """The metric of the task."""
    tolerance: Positive
    """Largest difference that the two ways of measuring can make, in the unit of the metric."""
    why: str
    """What this difference is made of: digits printed, types, kernels."""
    values: Annotated[tuple[PublishedValue, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_options_without_task(self) -> Self:
        if self.task is None and self.options:
            raise ValueError("options must be left out where task is null")
        return self


class AnchorFile(_Closed):
    """A file of `conf/anchors`: one source, or one model."""

    tables: Annotated[tuple[PublishedTable, ...], Field(min_length=1)]


class Anchor(NamedTuple):
    """A published figure, and the table that it is from."""

    table: PublishedTable
    published: PublishedValue

    @property
    def tolerance(self) -> float:
        """Largest difference that still reproduces the figure."""
        return self.published.tolerance or self.table.tolerance

    @property
    def why(self) -> str:
        """Why this tolerance."""
        return self.published.why or self.table.why

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the command line that give the protocol, such as `task.window=512`."""
        if self.table.task is None:
            return ()
        options = (option_word(key, value) for key, value in self.table.options.items())
        return (f"task={self.table.task}", *options)


def option_word(key: str, value: Option | None) -> str:
    """Return an option as it is typed, such as `task.limit=null`."""
    match value:
        case None | bool():
            text = {None: "null", True: "true", False: "false"}[value]
        case tuple():
            text = f"[{','.join(value)}]"
        case _:
            text = str(value)
    return f"task.{key}={text}"

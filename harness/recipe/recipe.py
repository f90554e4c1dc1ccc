"""A recipe: which weights are stored in which format, and what computes with them."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from harness.backends.base import Backend, CalibratedBackend
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.calibration.calibration_set import CalibrationSet
from harness.quant.range import StaticFormat

BASELINE = "none"
"""Name of the recipe without rules, and of no other."""
NO_RULES: Mapping[str, LayerRule] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantRecipe:
    """How a model is quantized. Without rules it is the float baseline."""

    name: str = BASELINE
    """Name of the recipe in records and reports."""
    rules: Mapping[str, LayerRule] = field(default_factory=lambda: NO_RULES)
    """Named rules; the first whose glob matches a target decides."""
    skip: tuple[str, ...] = ("lm_head", "embed_tokens")
    """Globs of targets that stay in float; `lm_head`, `embed_tokens` and `router` mean the model's own, by any name.

    Routers and the gates of shared experts stay in float in any case, unless `!router` says otherwise: `!` in front of a glob
    means that what it matches is not skipped.
    """
    group_size: int | None = None
    """Group size for the formats, which interpolate it: `quant.group_size=64`."""
    backend: Backend = field(default_factory=FakeBackend)
    """What computes with the quantized weights: fake quantization or a library."""
    calibration: CalibrationSet | None = None
    """The text that static scales are fitted to."""

    @property
    def calibrated_on(self) -> CalibrationSet | None:
        """What the recipe is fitted to, for static scales or by its backend; None if it looks at no text."""
        if any(rule.static_input for rule in self.rules.values()):
            return self.calibration
        return self.backend.calibration if isinstance(self.backend, CalibratedBackend) else None

    def __post_init__(self) -> None:
        """Refuse parts that contradict each other."""
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size must be >= 1, got {self.group_size}")
        self._check_name()
        for name, rule in self.rules.items():
            if rule.static_input and not (
                self.calibration
                and isinstance(rule.input, StaticFormat)
                and rule.input.granularity.block[0] == -1
            ):
                raise ValueError(
                    f"rules.{name} must have an input format with a scale that all tokens share, and calibration, to have "
                    f"static_input, got input {rule.input and rule.input.name} and calibration {self.calibration}"
                )
            if rule.static_input and isinstance(self.backend, CalibratedBackend):
                raise ValueError(
                    f"rules.{name} must leave static_input out beside a backend with a calibration of its own, got "
                    f"{self.backend.name}; a recipe is fitted to one text"
                )

    def _check_name(self) -> None:
        """Raise ValueError unless the name is `none` for the baseline, and for nothing else."""
        if self.rules and self.name == BASELINE:
            raise ValueError(
                f"name must be one of its own for a recipe with rules, got {BASELINE}, which is the baseline; "
                "set quant.name=NAME"
            )
        if self.rules:
            return
        changed = [item.name for item in fields(self) if getattr(self, item.name) != _default(item)]
        if changed:
            raise ValueError(
                f"{changed[0]} must be left out without rules, which make a recipe, got {getattr(self, changed[0])!r}; "
                "quant=none is the baseline as it is, or choose a recipe to change"
            )


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()

"""A recipe: which weights are stored in which format, and what computes with them."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from harness.backends.base import Backend, CalibratedBackend
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.calibration.calibration_set import CalibrationSet
from harness.errors import check_bounds
from harness.quant.range import StaticFormat

BASELINE = "none"
"""Name of the recipe without rules, and of no other."""
NO_RULES: Mapping[str, LayerRule] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantRecipe:
    """How a model is quantized. Without rules it is the baseline, the unquantized model."""

    name: str = BASELINE
    """Name of the recipe in records and reports."""
    rules: Mapping[str, LayerRule] = field(default_factory=lambda: NO_RULES)
    """Named rules; the first whose glob matches a target decides."""
    skip: tuple[str, ...] = ("lm_head", "embed_tokens")
    """Globs of targets that stay in float. `lm_head`, `embed_tokens` and `router` mean the model's
    own, whatever their names.

    Routers and the gates of shared experts stay in float in any case, unless `!router` is there:
    targets that a glob behind `!` matches are not skipped.
    """
    group_size: int | None = None
    """Group size for the formats, which interpolate it: `quant.group_size=64`."""
    backend: Backend = field(default_factory=FakeBackend)
    """What computes with the quantized weights: fake quantization or a library."""
    calibration: CalibrationSet | None = None
    """The text that static scales are fitted to."""

    @property
    def calibrated_on(self) -> CalibrationSet | None:
        """The text that static scales or the backend are fitted to; None if nothing is fitted."""
        if any(rule.static_input for rule in self.rules.values()):
            return self.calibration
        return self.backend.calibration if isinstance(self.backend, CalibratedBackend) else None

    def __post_init__(self) -> None:
        """Check bounds, the name, and static scales."""
        check_bounds(self, group_size=1)
        self._check_name()
        for name, rule in self.rules.items():
            if rule.static_input:
                self._check_static(name, rule)

    def _check_static(self, name: str, rule: LayerRule) -> None:
        """Raise ValueError unless static scales of a rule can be fitted, to one text."""
        # The first size of a block is that of tokens, whose number changes from call to call.
        shared = isinstance(rule.input, StaticFormat) and rule.input.granularity.block[0] == -1
        if not shared or self.calibration is None:
            raise ValueError(
                f"rules.{name} must have an input format with a scale that all tokens share, and "
                f"calibration, to have static_input, got input {rule.input and rule.input.name} "
                f"and calibration {self.calibration}"
            )
        if isinstance(self.backend, CalibratedBackend):
            raise ValueError(
                f"rules.{name} must leave static_input out beside a backend with a calibration of "
                f"its own, got {self.backend.name}; a recipe is fitted to one text"
            )

    def _check_name(self) -> None:
        """Raise ValueError unless the name is `none` for the baseline, and for nothing else."""
        if self.rules and self.name == BASELINE:
            raise ValueError(
                f"name must be one of its own for a recipe with rules, got {BASELINE}, which is "
                "the baseline; set quant.name=NAME"
            )
        if self.rules:
            return
        changed = [item.name for item in fields(self) if getattr(self, item.name) != _default(item)]
        if changed:
            raise ValueError(
                f"{changed[0]} must be left out without rules, which make a recipe, got "
                f"{getattr(self, changed[0])!r}; quant=none is the baseline as it is, or choose a "
                "recipe to change"
            )


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()

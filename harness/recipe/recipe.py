"""A recipe: which weights are stored in which format, and what computes with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from harness.backends.base import Backend
from harness.backends.fake import FakeBackend
from harness.calibration.calibration_set import CalibrationSet
from harness.quant.layer import LayerRule
from harness.quant.linear import StaticFormat

NO_RULES: Mapping[str, LayerRule] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantRecipe:
    """How a model is quantized. Without rules it is the float baseline."""

    name: str = "none"
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
    calibration: CalibrationSet | None = None
    """The text that static scales are fitted to."""

    def __post_init__(self) -> None:
        """Refuse a group size that formats cannot use, and static scales without a source."""
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size must be >= 1, got {self.group_size}")
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

"""The largest activations of every linear layer on calibration text, from torchao's observers."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.backends.torchao.library import torchao
from harness.calibration.calibration_set import CalibrationSet
from harness.data.source import Text
from harness.display.progress import bar
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_targets
from harness.models.targets.weight_layout import is_linear


class ActivationMaxima(NamedTuple):
    """What observers saw on a calibration set."""

    by_layer: Mapping[str, Tensor]
    """max |X| `[K]` of each linear layer that ran, in the model's type."""
    text: Text
    """The text that the sequences are from."""


@torch.no_grad()
def observe(loaded: LoadedModel, calibration: CalibrationSet) -> ActivationMaxima:
    """Run the unquantized model over a calibration set, with an observer at every linear layer."""
    ids, text = calibration.draw(loaded)
    with loaded.unquantized():
        # All linear layers, whatever the recipe skips: the next recipe may skip others.
        linears = [t for t in find_targets(loaded.module) if is_linear(t.owner)]
        library = torchao("prototype.smoothquant")
        observers = {t.name: library.RunningAbsMaxSmoothQuantObserver(t.matrix) for t in linears}
        hooks = [t.owner.register_forward_pre_hook(_hook(observers[t.name])) for t in linears]
        try:
            with bar("calibration", len(ids)) as progress:
                # One sequence at a time: padding would count as an activation.
                for ids_L in ids.to(loaded.device):
                    loaded.module(ids_L[None], use_cache=False)
                    progress.advance(tokens=len(ids_L))
        finally:
            for hook in hooks:
                hook.remove()
    # An observer that saw nothing has no maxima: no token reached its layer.
    by_layer = {name: seen.x_abs_max for name, seen in observers.items() if seen.calibration_count}
    return ActivationMaxima(MappingProxyType(by_layer), text)


def _hook(observer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that shows the activation of a layer to an observer."""

    def show(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        observer(args[0].contiguous())  # it views the activation as a matrix

    return show

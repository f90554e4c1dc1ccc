"""The model of a run, loaded and checked."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness.engines.local import cpu_matmul as products
from harness.machine import provenance
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.recipe import audit_after
from harness.results.record import ModelInfo
from harness.runner import checks
from harness.runner.spec import RunSpec
from harness.tasks.base import PairedTask, Task


@contextmanager
def loaded_model(spec: RunSpec, task: Task | PairedTask) -> Iterator[tuple[LoadedModel, ModelInfo]]:
    """Context manager: check, load, choose the CPU matmuls; at the end audit and restore."""
    assert spec.model is not None  # noqa: S101 - only a task without a model has none
    checks.check_asked(task, spec.engine)
    checks.check(spec.model, spec.recipe, task)
    loaded = cache.load(spec.model, spec.device)
    checks.check_loaded(loaded, spec.recipe, task)
    try:
        # A timed task measures torch's own kernels.
        how = "native" if task.is_timed else products.choose_way(loaded, provenance.cpu_flags())
        info = _describe(loaded, how)
        with products.multiplied(how):
            yield loaded, info
        audit_after(loaded)
    finally:
        loaded.restore()


def _describe(loaded: LoadedModel, how: products.MatmulWay) -> ModelInfo:
    count, float_bytes = loaded.num_parameters, sum(p.nbytes for p in loaded.module.parameters())
    if (stored := loaded.prequantized) is not None:  # its codes are buffers, not parameters
        count, float_bytes = stored.num_parameters, stored.num_parameters * loaded.dtype.itemsize
    return ModelInfo(
        name=loaded.name,
        dtype=loaded.dtype_name,
        device=loaded.device.type,
        attention=loaded.attention,
        products=how,
        fingerprint=loaded.fingerprint,
        baseline=loaded.baseline.fingerprint() if loaded.baseline is not None else None,
        revision=loaded.revision,
        architecture=type(loaded.module).__name__,
        origin=loaded.origin,
        weights=loaded.weights,
        num_parameters=count,
        float_bytes=float_bytes,
    )

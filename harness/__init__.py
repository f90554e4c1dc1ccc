"""quant-harness: what quantization costs a language model, and what it gains.

`run` measures one recipe on one task and files a record. `load_results` reads the records of a
folder into a table. Recipes, formats and tasks are configuration (`conf/`). `harness.quant`
quantizes tensors without a run.

    import harness

    record = harness.run("model=tiny", "data=embedded", "quant=int8_row", task="perplexity")
    frame = harness.load_results("results")

Importing this package is instant: a function is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.library import run
    from harness.results.frame import load_results

__version__ = "0.1.0"
__all__ = ["__version__", "load_results", "run"]

_HOMES = {"load_results": "harness.results.frame", "run": "harness.library"}
"""Function -> the module that it is imported from."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Hidden from type checkers, which see the imports above and would allow any other name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

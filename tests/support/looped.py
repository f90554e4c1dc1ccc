"""Many small cases in one collected test; the error of a case says which one it is."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def looped(
    names: str | tuple[str, ...],
    cases: Iterable[Any] | Callable[[], Iterable[Any]],
    ids: Callable[[Any], object] = repr,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a test that takes `names` so that it runs once for each case, in one collected test.

    Takes the place of `pytest.mark.parametrize` where there are more than a few cases: a collected
    test costs more than most of these take. The first case that fails ends the test.

    Args:
        names: One name, or several, as for `parametrize`.
        cases: Values of the name, or tuples of values; a function is called when the test runs.
        ids: Text of a value in the note that a failing case adds to its error.
    """
    keys = tuple(key.strip() for key in names.split(",")) if isinstance(names, str) else names

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        kept = [p for name, p in signature.parameters.items() if name not in keys]

        def run(*positional: Any, **named: Any) -> None:
            others = dict(zip((p.name for p in kept), positional, strict=False)) | named
            count = 0
            for case in cases() if callable(cases) else cases:
                values = dict(zip(keys, case if len(keys) > 1 else (case,), strict=True))
                try:
                    test(**values, **others)
                except BaseException as reason:
                    text = ", ".join(f"{key}={ids(value)}" for key, value in values.items())
                    reason.add_note(f"case: {text}")
                    raise
                count += 1
            assert count, "there must be cases, got none"

        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
        return run

    return decorate

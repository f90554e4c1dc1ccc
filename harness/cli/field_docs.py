"""The meaning of a component's fields: the docstrings below them in the source of its class."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise


@cache
def field_docs(component: type) -> Mapping[str, str]:
    """Return field -> its docstring in one line, also those of base classes.

    Python drops docstrings of attributes, so the source is parsed. A field without one is left out.
    """
    found: dict[str, str] = {}
    for owner in reversed(component.__mro__):
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):  # a built-in class, or one typed into a console
            continue
        found |= dict(_texts(ast.parse(textwrap.dedent(source)).body[0]))
    return found


def _texts(owner: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield each annotated attribute of a class that a docstring follows, with the docstring."""
    body = owner.body if isinstance(owner, ast.ClassDef) else []
    for item, below in pairwise(body):
        match item, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())

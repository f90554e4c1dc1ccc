"""Recipes that multiply integers are for processors whose products are exact."""

import pytest

INTEGER_RECIPES = ("torchao_int8_dynamic", "torchao_int8_smooth")


@pytest.fixture(autouse=True)
def _integers_where_they_are_exact(request: pytest.FixtureRequest) -> None:
    """Skip what is parametrized with a recipe that this processor cannot run."""
    if any(name in request.node.name for name in INTEGER_RECIPES):
        request.getfixturevalue("exact_int_mm")

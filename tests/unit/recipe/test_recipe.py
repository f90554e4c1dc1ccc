"""The rules between the fields of a recipe."""

import pytest

from harness.recipe import QuantRecipe


def test_group_size_without_meaning_is_an_error() -> None:
    for group_size in (0, -1):
        with pytest.raises(ValueError, match="group_size must be >= 1"):
            QuantRecipe(group_size=group_size)

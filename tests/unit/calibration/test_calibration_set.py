"""Calibration sequences: the same for a seed, equally long, out of a text that no task scores."""

import pytest
import torch
from recipe_builders import Examples

from harness.calibration.calibration_set import CalibrationSet
from harness.calibration.text import calibration_text
from harness.data.embedded import EmbeddedData
from harness.errors import DataError
from harness.models.loaded import LoadedModel

EMBEDDED = EmbeddedData()


def test_sequences_are_windows_of_the_text_and_the_same_for_a_seed(tiny: LoadedModel) -> None:
    chosen = CalibrationSet(data=EMBEDDED, num_sequences=5, length=60, seed=3)
    ids, text = chosen.draw(tiny)
    assert ids.shape == (5, 60)
    # The tokenizer of the tiny model has a token for each byte, but for four answers.
    spelled = tiny.tokenizer.batch_decode(ids)
    assert all(part.strip("\ufffd") in text.text for part in spelled)
    assert torch.equal(chosen.draw(tiny).ids, ids)
    other = CalibrationSet(data=EMBEDDED, num_sequences=5, length=60, seed=4)
    assert not torch.equal(other.draw(tiny).ids, ids)


def test_drawing_leaves_the_global_random_state_alone(tiny: LoadedModel) -> None:
    before = torch.random.get_rng_state()
    CalibrationSet(data=EMBEDDED, num_sequences=2, length=8).draw(tiny)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_whole_text_is_the_longest_sequence(tiny: LoadedModel) -> None:
    data = Examples(asked="asked", solved=["one"])
    length = len(tiny.tokenizer(calibration_text(data).text)["input_ids"])
    ids = CalibrationSet(data=data, num_sequences=2, length=length).draw(tiny).ids
    assert torch.equal(ids[0], ids[1])
    with pytest.raises(DataError, match=rf"at most {length}.*got {length + 1}; lower it"):
        CalibrationSet(data=data, num_sequences=2, length=length + 1).draw(tiny)


def test_sequence_longer_than_the_model_was_made_for_is_an_error(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match="8192 that tiny was made for"):
        CalibrationSet(data=EMBEDDED, length=9000).draw(tiny)


def test_sizes_that_show_nothing_are_an_error() -> None:
    for sizes in ({"num_sequences": 0}, {"length": 0}):
        with pytest.raises(ValueError, match=r"(num_sequences|length) must be >= 1, got 0"):
            CalibrationSet(data=EMBEDDED, **sizes)

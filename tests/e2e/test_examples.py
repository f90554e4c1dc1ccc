"""The examples run as they stand, and show what they say."""

import re
import subprocess
import sys
from itertools import product

from repository import ROOT

FILE = ROOT / "examples" / "per_block.py"
ROW = re.compile(r"\s*(.+?)  (W8A\S+(?: \w+)?)\s+MSE (\S+) before, (\S+) after")


def test_per_block_shows_what_rounded_inputs_cost() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 60
    done = subprocess.run(
        [sys.executable, FILE], capture_output=True, text=True, timeout=60, check=True
    )
    first, *lines = done.stdout.splitlines()
    power = float(first.removeprefix("power of the output: "))
    found = [match.groups() for line in lines if (match := ROW.fullmatch(line))]
    assert len(found) == len(lines) == 6
    assert {float(before) for _, _, before, _ in found} == {0}
    after = {(blocks, inputs): float(error) for blocks, inputs, _, error in found}
    blocks = ("groups of 64", "128 x 128 tiles")
    assert after.keys() == set(product(blocks, ("W8A16", "W8A8, dynamic", "W8A8, static")))
    for each in blocks:
        weights_only = after[each, "W8A16"]
        dynamic, static = after[each, "W8A8, dynamic"], after[each, "W8A8, static"]
        # A step of 2/127 of about 3 standard deviations: errors of a few parts in 10^5 a layer.
        assert 0 < weights_only < dynamic < static < 1e-2 * power

"""Calibration: what a method may learn from text before weights are quantized.

    text             chooses the text: not the one that a task scores, if there is another
    calibration_set  cuts it into sequences, and identifies them for the record
    ranges           fits static scales to the activations of the unquantized model on them

Backends with statistics of their own (`backends/torchao/maxima`) use the same sequences.
"""

from harness.calibration.calibration_set import CalibrationSet

__all__ = ["CalibrationSet"]

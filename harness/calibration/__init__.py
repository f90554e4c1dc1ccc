"""What a method may learn from a text before the weights are quantized.

`text` chooses the text, `calibration_set` cuts it into sequences and identifies them, and `ranges` runs the unquantized model on them
to fit static scales of activations.
"""

from harness.calibration.calibration_set import CalibrationSet

__all__ = ["CalibrationSet"]

"""Rounded activations where no layer of ours can round them: in checkpoints that came quantized, and inside fused experts."""

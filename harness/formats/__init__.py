"""Element formats: which numbers exist. Nothing here knows of tensors, scales or models."""

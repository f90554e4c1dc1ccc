"""scaled_mm."""

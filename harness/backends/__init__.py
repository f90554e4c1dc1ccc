"""What runs in the place of a float weight."""

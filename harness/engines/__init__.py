"""Programs that load a checkpoint folder by themselves and generate from it."""

"""What a run leaves on disk. No torch here: records can be read anywhere."""

"""What a method sees of a model's inputs before it quantizes."""

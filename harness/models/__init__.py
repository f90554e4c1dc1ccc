"""Where models come from, and which of their weights can be quantized. The only home of transformers."""

"""What is measured. A task sees a model and data; it does not know whether the model is quantized."""

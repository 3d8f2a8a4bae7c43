"""The training of the embedded model (``python -m training.train``): text, network, GGUF export, evaluation."""

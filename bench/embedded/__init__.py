"""Parts of the training of the embedded model: text, network, GGUF export, evaluation."""

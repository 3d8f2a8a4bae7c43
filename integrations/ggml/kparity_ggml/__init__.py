"""ggml's own kernels under kparity's judge: its ops as ops of kparity, its devices as backends."""

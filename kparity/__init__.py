"""kparity decides whether a GPU backend may be trusted with ternary (BitNet b1.58) inference."""

__version__ = "0.1.0"

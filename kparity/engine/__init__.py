"""A model on a backend: its weights there, the forward pass as a list of launches, the recorded step that serves."""

from kparity.engine.engine import Engine

__all__ = ["Engine"]

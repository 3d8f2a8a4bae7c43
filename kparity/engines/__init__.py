"""Engines that can be compared: whatever turns tokens into logits, each behind the same few calls."""

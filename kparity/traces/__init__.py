"""Traces: statistics per layer and slot, and the gates that compare two traces only where they count the same."""

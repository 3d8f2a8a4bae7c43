"""Traces: what engines compute between tokens and logits, slot by slot.

slots       the places of a forward pass: what they mean, and what they are made of
names       from the names of engines and dumps to slots
capture     records an engine, and proves that recording changed nothing
files       what lies on disk (``dumps``: single tensors), read again
parity      statistics, and the gates on them: sample sizes first
diff        which slot of two traces is the first that does not follow from its inputs (``measure``: how far apart)
recorded    a trace that kept its logits as an engine
"""

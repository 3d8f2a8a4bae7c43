"""What is wrong with an engine that differs: patterns in what was measured, and defects that were simulated."""

"""From a pair that diverges to the position, the layer and the op: every step halves, and swaps in what is right."""

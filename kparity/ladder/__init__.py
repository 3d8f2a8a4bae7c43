"""The parity ladder: two engines compared rung by rung, from facts to greedy decode; the first that fails ends it."""

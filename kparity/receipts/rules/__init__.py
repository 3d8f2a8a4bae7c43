"""The rules of receipt-v1, by subject. Each takes the predicate of a statement in good form and yields findings."""

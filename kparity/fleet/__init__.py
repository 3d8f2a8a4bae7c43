"""Many machines: one task per GPU of a Ray cluster, a ledger of what became of each, and what the ledger shows."""

"""Shadow burn-in: two servers answer the same prompts, and what they answered is kept, a row a round."""

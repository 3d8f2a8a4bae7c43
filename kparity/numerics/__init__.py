"""Arrays in, numbers out: comparison, aggregates in one pass, intervals. Knows no device."""

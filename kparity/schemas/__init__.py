"""JSON Schemas of what kparity writes."""

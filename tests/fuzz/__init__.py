"""Fuzzers of everything that comes from outside: ``python -m tests.fuzz TARGET --seconds 60`` (needs atheris)."""

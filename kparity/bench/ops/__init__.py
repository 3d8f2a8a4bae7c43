"""Speed of single ops: which cases, how they lie in memory, and how several backends are timed side by side."""

from kparity.bench.ops.run import Request, Result, line, run

__all__ = ["Request", "Result", "line", "run"]

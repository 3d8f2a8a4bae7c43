"""Speed: how it is measured, on what machine, and against what. Nothing here counts without a verified output."""

from kparity.bench.timing import Sample, Series, bootstrap, interleave, judge_times, settled, timed

__all__ = ["Sample", "Series", "bootstrap", "interleave", "judge_times", "settled", "timed"]

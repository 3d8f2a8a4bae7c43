"""Speed: how it is measured, on what machine, and against what. Nothing here counts without a verified output."""

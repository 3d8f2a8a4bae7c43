"""The report: one HTML page of what kparity wrote about a pair or a machine (``kparity report``)."""

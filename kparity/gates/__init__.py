"""The gates of a probe, one file each, and ``table``, which has an entry for every one."""

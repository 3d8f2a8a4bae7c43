"""Ternary GEMVs that know nothing of kparity."""

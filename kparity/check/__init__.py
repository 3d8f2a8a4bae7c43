"""Every op, at every case, on every backend, held against fp64 truth: ``check_case`` for one, a sweep for all."""

"""PTX executed on the host: what NVRTC makes of the CUDA texts, run by an interpreter over numpy.

``text`` reads PTX, ``opcodes`` says what each instruction means, ``translate`` makes a Python function of every basic
block, and ``machine`` runs all threads of many blocks at once on ``memory``, watched by ``sanitizer``. ``nvrtc`` is the
compiler, and ``device`` stands in for CuPy, so that the adapter of ``cuda`` runs on all this unchanged.

It proves what the PTX computes. It knows nothing of what ptxas makes of it, of the special-function units of a GPU, of
the order in which memory becomes visible, and of speed.
"""

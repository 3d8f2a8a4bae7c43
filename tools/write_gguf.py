"""Write a GGUF file of the BitNet b1.58 graph with random ternary weights, by default of the shape of the 2B-4T model.

    python -m tools.write_gguf OUT --type tq2_0 --layers 4

The writer is kparity/bench/gguf_writer.py; the shapes that ``kparity bench --shape`` knows are written by itself.
"""

from kparity.bench.gguf_writer import main

if __name__ == "__main__":
    main()

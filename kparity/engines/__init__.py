"""Engines that can be compared: whatever turns tokens into logits, each behind the same few calls.

base        the calls (``Engine``), what an engine says of itself (``Facts``), how people write one (``Spec``)
registry    kinds by name, those of other packages among them
remote      an engine in a process of its own (``open_engine``)
own         kparity on a backend
plain       the reference, and its control without quantisation of activations
llamacpp    llama.cpp of any build, through its C interface (``llama_abi``, ``llama_layout``)
http        a server (``http_wire``: requests; ``http_dialects``: what is asked, and the forms of the answers)
hf          a model in transformers (``hf_weights``, ``hf_words``: from a GGUF file and back)
"""

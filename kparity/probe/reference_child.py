"""The process that computes the reference of a probe. No backend is opened in it: no driver can change its bits."""

from __future__ import annotations

from kparity.probe.messages import ReferenceRequest
from kparity.process import Done, Link, failure


def main(link: Link) -> int:
    """Compute what is asked for, write it to its file, and say so."""
    request = link.request(ReferenceRequest)
    try:
        from kparity.gates import reference
        from kparity.model import load_model

        link.stage("reference")
        model = load_model(request.model)
        tokens = reference.probe_tokens(model, min(request.positions, model.hparams.context))
        found = reference.compute(model, tokens, act=request.act, kv=request.kv, tick=link.tick)
        found.write(request.descriptor)
        link.send(Done())
    except Exception as error:  # whatever keeps the reference from being computed is told to every candidate's row
        link.send(failure(error))
    return 0

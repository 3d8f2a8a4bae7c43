"""Whether kernels, launches, bytes and the file's size are those of a model with the sizes that the receipt tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from kparity.contracts import Contract
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput
from kparity.receipts import derived
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of, dialects, sha256_of
from kparity.receipts.record import Model, Predicate, Run
from kparity.receipts.rules.device import enumerated


def graph(predicate: Predicate, contract: Contract) -> Findings:
    """A model's sizes give the bytes of its file and of a token, and the launches of every kernel in each program."""
    model = predicate.model
    if model is None:
        return
    try:
        least, most = derived.tensor_bytes(model)
        most += int(contract.threshold("model_overhead_bytes").value)
        if not least <= model.bytes <= most:
            why = f"{model.bytes} bytes, the tensors of these sizes take {least} and the file at most {most}"
            yield Finding("RCPT-MODEL-SIZE", "/predicate/model/bytes", why)
            return
    except WrongInput as error:
        yield Finding("RCPT-MODEL-SIZE", "/predicate/model", str(error))
        return
    for at, run in enumerated(predicate):
        if run.parity.verdict != "FAIL":
            yield from _launches(run, model, predicate, at)
        for index, row in enumerate(run.measurements):
            wanted = derived.bytes_of(model, row, _option(predicate, "kv", "f16"))
            if not contract.threshold("recomputed").holds(abs(row.bytes / wanted - 1)):
                why = f"{row.name}: {row.bytes:.0f} bytes, the model's sizes give {wanted}"
                yield Finding("RCPT-BANDWIDTH", f"{at}/measurements/{index}/bytes", why)


def _option(predicate: Predicate, name: str, default: str) -> str:
    found = predicate.request.options.get(name, default)
    return found if isinstance(found, str) else ""


def _launches(run: Run, model: Model, predicate: Predicate, at: str) -> Findings:
    """Of a benchmark every kernel in each program; of a probe, whose gates launch more, which kernels they are."""
    if not dialects(run.backend):
        return  # a package that names its kernels as it likes
    act, kv = (_option(predicate, name, default) for name, default in (("act", "token"), ("kv", "f16")))
    own = registry.builtin().get(run.backend)
    try:  # today's graph of its dialect; or that of versions before, in which every dialect had the same
        each = (own.dialect if own else derived.Paper.dialect, derived.Paper.dialect)
        graphs = [derived.kernels(model, run.device, run.graph, act, kv, dialect) for dialect in dict.fromkeys(each)]
    except WrongInput as error:
        yield Finding("RCPT-GRAPH", f"{at}/kernels", str(error))
        return
    odd = [list(_odd(run, predicate, wanted)) for wanted in graphs]
    for why in odd[0] if all(odd) else ():
        yield Finding("RCPT-GRAPH", f"{at}/kernels", why)


def _odd(run: Run, predicate: Predicate, wanted: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Where a run's launches are not those of a graph, the first in each program."""
    full = predicate.kind == "bench" or predicate.request.options.get("depth") != "bos"
    for unit, expected in wanted.items():
        told: Counter[str] = Counter()
        for kernel in run.kernels:
            name = derived.without_dialect(kernel.id, dialect_of(kernel.id, run.backend))
            told[name] += getattr(kernel.launches, unit) if kernel.launches else kernel.dispatches
        if run.graph is not None:
            odd = sorted(name for name in told | expected if told[name] != expected[name])
        else:
            known = set().union(*wanted.values())
            odd = sorted({*told} - known) + sorted({*expected} - {*+told} if full or unit == "step" else ())
        for name in odd[:1]:
            yield f"{name}: {told[name]} launches in a {unit}, the graph of this model has {expected[name]}"


def texts(predicate: Predicate) -> Findings:
    """Where the very version that measured is installed, a kernel's text is the one that lies here."""
    if predicate.harness.kernels_sha256 != fingerprint.kernels():
        return
    found = [(f"{at}/kernels/{index}", kernel.id, kernel.sha256, run.backend)
             for at, run in enumerated(predicate) for index, kernel in enumerate(run.kernels)]  # fmt: skip
    found += [(at, row.kernel, row.kernel_sha256, row.backend) for at, row, _ in predicate.rows() if row.kernel]
    for at, name, told, backend in found:
        try:
            own = sha256_of(name, backend)
        except WrongInput as error:
            if backend in registry.BUILTIN:  # the texts of another package are nobody's here
                yield Finding("RCPT-KERNEL-TEXT", at, str(error))
            continue
        if own != told:
            why = f"{name} has the text {told[:12]}…, that of this version is {own[:12]}…"
            yield Finding("RCPT-KERNEL-TEXT", at, why)

"""glu in torch operations, written apart from the reference: torch's own activations."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[y] from [gate, up]."""
    gate, up = inputs
    functional = torch.nn.functional
    y = (functional.silu(gate) if case["act"] == "silu" else functional.relu(gate).square()) * up
    return [y.clamp(-65504.0, 65504.0) if case["clamp"] else y]  # clamp keeps NaN

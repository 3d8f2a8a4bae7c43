"""Models: what a GGUF file says, checked, in the form that engines need."""

from kparity.model.dense import Dense
from kparity.model.hparams import Hparams
from kparity.model.model import Model, load_model
from kparity.model.ternary import Ternary

__all__ = ["Dense", "Hparams", "Model", "Ternary", "load_model"]

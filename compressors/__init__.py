"""The built-in techniques. Importing this package registers them; a new one is one file and one line here."""

from .coding import entropy
from .distillation import recovery
from .lowrank import svd
from .pruning import magnitude
from .quantization import integer
from .sharing import codebook

__all__ = ["codebook", "entropy", "integer", "magnitude", "recovery", "svd"]

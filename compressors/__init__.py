"""The built-in techniques. Importing this package registers them; a new one is one file and one line here."""

from .coding import entropy
from .distillation import recovery
from .lowrank import svd
from .pruning import channels, depth, magnitude
from .quantization import int8, integer
from .sharing import codebook

__all__ = ["channels", "codebook", "depth", "entropy", "int8", "integer", "magnitude", "recovery", "svd"]

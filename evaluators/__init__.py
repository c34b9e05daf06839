"""What a model costs and how good it is: one metric a file. Importing this package registers them.

`Quality` isn't registered: it belongs to a task, whose own metric it measures.
"""

from . import bops, latency, macs, memory, params, size
from .accuracy import Quality

__all__ = ["Quality", "bops", "latency", "macs", "memory", "params", "size"]

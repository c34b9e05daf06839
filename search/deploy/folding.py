"""Batch norms folded into the convolutions before them: inference computes one layer instead of two."""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_PAIRS = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def folded(model: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a traced model in which no batch norm follows a convolution that nothing else reads.

    Parameters
    ----------
    model
        In eval mode. Convolutions keep their paths.
    """
    copied = copy.deepcopy(model)
    used = Counter(str(node.target) for node in copied.graph.nodes if node.op == "call_module")
    for node in list(copied.graph.nodes):
        if node.op != "call_module" or node.args[0].op != "call_module" or len(node.args[0].users) != 1:
            continue
        before, path = node.args[0], str(node.args[0].target)
        conv, norm = copied.get_submodule(path), copied.get_submodule(str(node.target))
        for first, second in _PAIRS:
            if type(conv) is first and type(norm) is second and norm.track_running_stats and used[path] == 1:
                copied.set_submodule(path, fuse_conv_bn_eval(conv, norm))
                node.replace_all_uses_with(before)
                copied.graph.erase_node(node)
    copied.graph.lint()
    copied.delete_all_unused_submodules()
    copied.recompile()
    return copied

"""A place in a model where a decision is taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from .errors import SettingError, nearest

#: Kinds whose sites are one weighted layer.
LAYER_KINDS = frozenset({"linear", "attention", "conv1d", "conv2d", "depthwise", "grouped", "embedding", "recurrent"})

#: The site that stands for the whole model (containers, recovery training).
MODEL = "<model>"


@dataclass(frozen=True)
class Slice:
    """What one module loses when channels of a coupled group go.

    ``side`` is "out" or "in"; channel ``c`` of the group owns the positions ``positions[c]`` of that side.
    """

    module: str
    side: str
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Site:
    """A layer, or a group of coupled layers, or a block, or the model.

    Attributes
    ----------
    name
        Unique in the model: the module's path, or ``group:<path>``, ``heads:<path>``, ``block:<path>``.
    kind
        One of `LAYER_KINDS`, or "group" (coupled channels), "heads", "block", "model".
    members
        Paths of the modules that belong to it. Two modules that share a weight make one site.
        A block's first member is the block itself.
    weights
        Names of its weight tensors, each counted once.
    shape
        Shape of the first weight; of a group or of heads, ``(number of channels or heads,)``.
    macs
        Multiply-accumulates for one example.
    bytes
        Bytes of its weights in fp32.
    slices
        For a group: what each module loses per channel.
    kernel
        Of a convolution: its size per dimension.
    """

    name: str
    kind: str
    members: tuple[str, ...]
    weights: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    macs: int = 0
    bytes: int = 0
    slices: tuple[Slice, ...] = ()
    kernel: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Site:
        """Read what `to_json` wrote."""
        fields = dict(data)
        fields["slices"] = tuple(
            Slice(s["module"], s["side"], tuple(tuple(p) for p in s["positions"])) for s in data.get("slices", ())
        )
        for key in ("members", "weights", "shape", "kernel"):
            fields[key] = tuple(fields.get(key, ()))
        return cls(**fields)

    def inside(self, block: Site) -> bool:
        """Whether every member lies within the modules of ``block``; a block is inside itself."""
        if not self.members or not block.members:
            return False
        root = block.members[0]
        return all(m == root or m.startswith(root + ".") for m in self.members)


def matches(site: Site, pattern: str) -> bool:
    """Whether a glob names the site: by its name, or by the path of one of its members."""
    if pattern == "*":
        return True
    names = (site.name, *site.members)
    return any(fnmatchcase(n, pattern) for n in names)


def select(sites: Sequence[Site], patterns: Iterable[str], setting: str = "layers") -> tuple[Site, ...]:
    """Return the sites that any pattern matches, in order; a pattern that starts with ``!`` takes away.

    Raises
    ------
    SettingError
        If a pattern matches nothing.
    """
    chosen: dict[str, Site] = {}
    listed = list(patterns)
    if not listed:
        raise SettingError(setting, [], "names no layer", "Leave it out to take all layers.")
    if listed and all(p.startswith("!") for p in listed):
        listed.insert(0, "*")
    for pattern in listed:
        take = not pattern.startswith("!")
        found = [s for s in sites if matches(s, pattern.lstrip("!"))]
        if not found:
            known = [s.name for s in sites if s.kind != "model"]
            raise SettingError(setting, pattern, "matches no layer of this model", nearest(pattern, known))
        for site in found:
            if take:
                chosen[site.name] = site
            else:
                chosen.pop(site.name, None)
    return tuple(s for s in sites if s.name in chosen)

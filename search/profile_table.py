"""The sensitivity profile as tables for a terminal: one row a site, one cell a technique."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..spaces.errors import SettingError, nearest
from ..spaces.site import LAYER_KINDS, select
from ..spaces.space import Space
from .amounts import amount
from .profile_rows import Row, by_site, cheapest_savings, most_sensitive
from .sensitivity import Profile, is_measured

#: Width of a figure, and of a column that holds three of them.
_FIGURE = 5
_STRENGTHS = ("low", "mid", "high")
#: From the least harmful fifth of the steps to the most harmful.
_COLOURS = ("bright_blue", "cyan", "green", "yellow", "bold red")
#: Width of the columns that describe a site, without its name; and the longest name.
_ABOUT, _NAME = 33, 24
#: Rows of the rankings.
_RANKED = 5


def narrowed(space: Space, technique: str | None, layers: str) -> set[str]:
    """Return the names of the sites that a glob matches and that a technique (if one is named) can act at.

    Raises
    ------
    SettingError
        If no site matches, or the space has no such technique, or has it at none of these sites.
    """
    places = {(d.site, option.technique) for d in space.decisions if is_measured(d) for option in d.options}
    known, offered = {name for _, name in places}, {site for site, _ in places}
    if technique is not None and technique in {o.technique for d in space.decisions for o in d.options} - known:
        rule = "is of the whole model, so it does nothing to one layer, and no row is of it"
        raise SettingError("technique", technique, rule, f"Known: {', '.join(sorted(known))}.")
    if technique is not None and technique not in known:
        raise SettingError("technique", technique, "is not among this space's steps", nearest(technique, known))
    chosen = {s.name for s in select([s for s in space.sites.values() if s.name in offered], [layers])}
    if technique is not None:
        where = {site for site, name in places if name == technique}
        if not chosen & where:
            advice = nearest(layers, where)
            raise SettingError("layers", layers, f"matches nothing that {technique} can act at", advice)
        chosen &= where
    return chosen


def profile_lines(
    profile: Profile, technique: str | None, sites: set[str], width: int, coloured: bool
) -> Iterator[Table | Text]:
    """Yield what a terminal shows of some sites: tables, what they mean (colours where there are any), and the
    rankings.
    """
    rows = [r for r in profile.rows() if r.site in sites and technique in (None, r.technique)]
    if not rows:
        return
    yield from profile_tables(profile, rows, width) if technique is None else technique_tables(profile, rows, width)
    yield legend(profile, coloured)
    yield from ranking_lines(profile, rows)


@dataclass(frozen=True)
class Shades:
    """Which colour a damage has: by the fifth of the profile's steps that it lies in."""

    limits: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Shades:
        """Return the shades of a profile."""
        damages = [r.damage for r in rows if 0 < r.damage < math.inf]
        return cls(tuple(np.quantile(damages, (0.2, 0.4, 0.6, 0.8)).tolist()) if damages else ())

    def colour(self, damage: float) -> str:
        """Return the style of a damage."""
        return _COLOURS[sum(damage > limit for limit in self.limits)]


def damage_text(damage: float) -> str:
    """Return a damage in at most five characters: 3e-5, 0.04, 1.2, fails."""
    if math.isinf(damage):
        return "fails"
    if damage == 0:
        return "0"
    if damage < 0.001:
        mantissa, _, exponent = f"{damage:.0e}".partition("e-")
        return f"{mantissa}e-{int(exponent)}"
    if damage < 1:
        return f"{damage:.1g}"
    return f"{damage:.1f}" if damage < 9.95 else f"{damage:.0f}" if damage < 1e5 else f"{damage:.0e}".replace("+0", "")


def short(count: float) -> str:
    """Return a count in at most five characters: 412, 3.1k, -62k, 1.2M."""
    size, prefix = abs(count), ""
    for prefix in ("", "k", "M", "G", "T"):
        if size < 999.5 or prefix == "T":
            break
        size /= 1000
    digits = 1 if prefix and size < 9.95 else 0
    return ("-" if count < 0 else "") + f"{size:.{digits}f}{prefix}"


def percent(share: float | None) -> str:
    """Return a share of a whole in at most five characters: 3.1%, 42%, -0.2%, 0%; a dash where it isn't known."""
    if share is None:
        return "–"
    value = 100 * share
    return f"{value:.1f}%" if 0.05 <= abs(value) < 9.95 else f"{value:.0f}%".replace("-0%", "0%")


def profile_tables(profile: Profile, rows: Sequence[Row], width: int) -> Iterator[Table]:
    """Yield tables of ``rows`` no wider than ``width`` characters; techniques that don't fit go into a further one.

    Each cell has up to four lines, of the gentlest, the middle and the strongest setting: the damage, the bytes saved
    and (where any are) the MACs and the share of the latency saved.
    """
    shades = Shades.of(profile.rows())
    for title, chosen in _parts(profile, rows):
        known = by_site(chosen)
        techniques = list(dict.fromkeys(r.technique for r in chosen))
        room = max(1, (width - _ABOUT - min(_NAME, max(map(len, known))) - 4) // (3 * _FIGURE + 3))
        for start in range(0, len(techniques), room):
            taken = techniques[start : start + room]
            table = _table(title)
            captions = []
            for name in taken:
                each = [known[site].get(name, []) for site in known]
                heading, caption = _heading(name, each)
                captions += [caption] if caption else []
                table.add_column(heading, justify="left", no_wrap=True)
            _fill(table, profile, [(s, [_three(t.get(n, [])) for n in taken]) for s, t in known.items()], shades)
            table.caption = "\n".join(captions) or None
            yield table


def technique_tables(profile: Profile, rows: Sequence[Row], width: int) -> Iterator[Table]:
    """Yield tables of one technique's ``rows``, with every setting as a column, no wider than ``width``."""
    shades = Shades.of(profile.rows())
    known = by_site(rows)
    settings = {r.setting: [str(v) for v in r.params.values()] or ["applied"] for r in rows}
    widest = max(_FIGURE, *(len(line) for lines in settings.values() for line in lines))
    room = max(1, (width - _ABOUT - min(_NAME, max(map(len, known)))) // (widest + 2))
    title = " · ".join((rows[0].technique, *dict.fromkeys(k for r in rows for k in r.params)))
    for start in range(0, len(settings), room):
        taken = list(settings)[start : start + room]
        table = _table(title)
        for setting in taken:
            table.add_column(escape("\n".join(settings[setting])), justify="right", no_wrap=True)
        cells = []
        for site, techniques in known.items():
            at = {r.setting: r for each in techniques.values() for r in each}
            cells.append((site, [[at[s]] if s in at else [] for s in taken]))
        _fill(table, profile, cells, shades)
        yield table


def _parts(profile: Profile, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of layers and those of groups and blocks: other techniques apply to them."""
    sites = profile.choices.space.sites
    kinds = {s: sites[s].kind if sites[s].kind not in LAYER_KINDS else "layer" for s in sites}
    for kind in dict.fromkeys(kinds.values()):
        chosen = [r for r in rows if kinds[r.site] == kind]
        if chosen:
            names = {"group": "groups of coupled channels", "heads": "heads", "model": "the model as a whole"}
            yield names.get(kind, f"{kind}s"), chosen


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption_justify = "left"
    table.add_column("site", no_wrap=True, max_width=_NAME)
    table.add_column("kind", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("step", no_wrap=True, style="dim")
    return table


def _fill(table: Table, profile: Profile, cells: Sequence[tuple[str, list[list[Row]]]], shades: Shades) -> None:
    macs = sum(unit.macs for unit in profile.units.values()) or 1
    for site, groups in cells:
        kind = profile.choices.space.sites[site].kind
        held = profile.held(site)
        about = (Text(shortened(site)), kind, short(held.bytes), f"{100 * held.macs / macs:.0f} %")
        every = [r for rows in groups for r in rows]
        further = []
        if any(r.macs_saved for r in every):
            further.append("MACs")
        if any(r.latency_saved for r in every):
            further.append("time")
        lines = Text("\n".join(("damage", "bytes", *further)))
        table.add_row(*about, lines, *[_cell(rows, shades, further) for rows in groups])


def shortened(name: str, longest: int = _NAME) -> str:
    """Return a path without the middles of its long words where it is long, so that numbers and ends stay."""
    words = re.split("([.:])", name)
    for most in range(longest, 2, -1):
        head, tail = most // 2, most - 1 - most // 2
        text = "".join(w if len(w) <= most else f"{w[:head]}…{w[-tail:]}" for w in words)
        if len(text) <= longest:
            return text
    return f"…{name[1 - longest :]}"


def _three(rows: list[Row]) -> list[Row]:
    """Return the gentlest, the middle and the strongest setting, each once."""
    return [rows[i] for i in dict.fromkeys((0, len(rows) // 2, len(rows) - 1))] if rows else []


def _cell(rows: list[Row], shades: Shades, further: Sequence[str]) -> Text:
    """Return the lines of some settings of a technique at a site: damages, bytes, and what else there is to show."""
    if not rows:
        return Text()
    damages = [Text(f"{damage_text(r.damage):>{_FIGURE}}", style=shades.colour(r.damage)) for r in rows]
    lines = [Text(" ").join(damages)]
    saved = {
        "bytes": [short(r.bytes_saved) for r in rows],
        "MACs": [short(r.macs_saved) for r in rows],
        "time": [percent(r.latency_saved) for r in rows],
    }
    for name in ("bytes", *further):
        texts = ["–" if row.error else text for row, text in zip(rows, saved[name])]
        lines.append(Text(" ".join(f"{text:>{_FIGURE}}" for text in texts), style="dim"))
    return Text("\n").join(lines)


def _heading(name: str, each: Sequence[list[Row]]) -> tuple[Text, str]:
    """Return a technique's heading, and what its three settings are where the heading has no room for it."""
    three = [_three(rows) for rows in each if rows]
    texts = {tuple(r.setting for r in rows) for rows in three}
    first = three[0]
    varying = [k for k in first[0].params if len({r.params.get(k) for r in next(filter(None, each))}) > 1]
    words = list(_STRENGTHS[: len(first)]) if len(first) > 1 else []
    caption = ""
    title = name
    if len(texts) == 1 and len(varying) == 1:
        title, words = f"{name} {varying[0]}", [str(r.params[varying[0]])[:_FIGURE] for r in first]
    elif len(texts) == 1 and first[0].params:
        caption = f"{name}: " + " | ".join(f"{w} {r.setting}" for w, r in zip(_STRENGTHS, first))
    heading = Text(title, style="bold")
    heading.append("\n" + " ".join(f"{w:>{_FIGURE}}" for w in words), style="not bold")
    return heading, caption


def legend(profile: Profile, coloured: bool) -> Text:
    """Return what the figures and colours of the tables mean."""
    damage = "rise of the loss" if profile.classes else "change of the outputs"
    text = Text(f"damage: predicted {damage} if the step is applied alone, before batch norm is estimated anew")
    if coloured:
        text.append("; of all steps the ")
        for colour, words in zip(_COLOURS, ("least harmful", "second", "middle", "fourth", "most harmful")):
            text.append(words, style=colour).append(", " if colour != _COLOURS[-1] else " fifth")
    if not profile.classes:
        text.append(". It is half the squared change, in units of the outputs' variance")
    if not profile.by_loss:
        text.append(". The loss can't be evaluated on this data: all outputs count alike")
    text.append(". Beside each layer its bytes and share of the MACs; in the cells, what the step saves")
    return text.append(", of the time in percent" if profile.latency is not None else "")


def ranking_lines(profile: Profile, rows: Sequence[Row]) -> Iterator[Text]:
    """Yield the most sensitive layers, and the steps that save most bytes for their damage."""
    sensitive = most_sensitive(rows, profile.choices.space.sites)[:_RANKED]
    if sensitive:
        yield Text(f"most sensitive layers (median damage of {sensitive[0].steps} steps)", style="bold")
        for found in sensitive:
            yield Text(f"  {damage_text(found.damage):>{_FIGURE}}  {found.site}")
    cheapest = cheapest_savings(rows)[:_RANKED]
    if cheapest:
        yield Text("cheapest savings: most bytes per damage, one step a site", style="bold")
        for row in cheapest:
            text = f"{amount(row.bytes_saved, 'B'):>8} for {damage_text(row.damage):<{_FIGURE}}"
            yield Text(f"  {text}  {row.site}: {row.technique} {row.setting}".rstrip())

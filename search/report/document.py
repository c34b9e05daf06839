"""One HTML page of ours: a template, styles, scripts and data, in a file that never touches the network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .figures import number


def document(template: str, view: Mapping[str, Any], styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return a page. Everything in ``view`` is escaped, and the page's policy runs no script but its own.

    Parameters
    ----------
    template
        Name of the template; it extends ``document.html``, which has its blocks.
    view
        What it shows; ``view["client"]`` is handed to the scripts.
    styles, scripts
        Names of style sheets, and of scripts that share one scope.
    """
    plotly, style = _asset("plotly-cartesian.min.js"), "\n".join(_asset(name) for name in styles)
    script = "\n".join(_asset(name) for name in scripts)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_asset)
    )
    return environment.get_template(template).render(
        view=view,
        client=Markup(_embedded(view["client"])),  # no character that HTML reads as markup is left
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src '{_digest(plotly)}' '{_digest(script)}'; base-uri 'none'; form-action 'none'",
        plotly=Markup(plotly),
        script=Markup(script),
        style=Markup(style),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _embedded(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def clean(value: Any) -> Any:
    """Return plain JSON data: no NaN or infinity (None instead), no lone surrogates, no numpy scalars."""
    if isinstance(value, Mapping):
        return {_text(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return number(value)
    return _text(value)


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()

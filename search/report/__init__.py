"""The front as a page that a person opens: one HTML file that needs no network."""

from .page import render

__all__ = ["render"]

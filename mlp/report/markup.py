"""Pieces of HTML; whatever comes from a store is escaped here."""

import html
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go


class Raw(str):
    """A cell that is HTML already."""

    __slots__ = ()


def table(heads: Iterable[str], rows: Iterable[Sequence[str]], name: str = "") -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        heads: one a column.
        rows: cells; those that are no `Raw` are escaped.
        name: its id; empty: none.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    own = f" id={name}" if name else ""
    whole = f"<table{own}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll>{whole}</div>"


def section(title: str, said: str, *parts: str) -> str:
    """A heading, a paragraph and parts that are HTML already; nothing where all parts are empty."""
    if not any(parts):
        return ""
    intro = f"<p>{escape(said)}</p>" if said else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{''.join(parts)}</section>"


def plot(name: str, figure: go.Figure, *, wide: bool = False) -> str:
    """The place of a figure and its data, which the page's script draws there."""
    data = str(figure.to_json()).replace("</", "<\\/")
    kind = "figure wide" if wide else "figure"
    return (
        f"<div class=scroll><div class='{kind}' id='figure-{name}'></div></div>"
        f"<script type='application/json' data-figure='figure-{name}'>{data}</script>"
    )


def link(address: str, text: str) -> Raw:
    """A link to MLflow; the page's script puts in where the server is, if it can tell."""
    return Raw(f'<a class=run href="{escape(address)}">{escape(text)}</a>')


def escape(text: object) -> str:
    """A text as HTML shows it."""
    return html.escape(str(text))


def _cell(cell: str) -> str:
    return f"<td>{cell if isinstance(cell, Raw) else escape(cell)}</td>"

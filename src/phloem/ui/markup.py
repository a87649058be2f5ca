"""HTML and SVG from elements: what is not markup already is escaped, so no name or reason can inject any."""

from __future__ import annotations

import html

_VOID = frozenset({"meta", "br", "hr", "path", "line", "rect", "circle", "polyline"})


class Markup(str):
    """Text that is markup already; only `element`, `joined` and constants of this package make it."""

    __slots__ = ()


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """One element. Children that are not `Markup` are escaped; attributes always are.

    In attribute names a `_` at the end is dropped, others become `-`; an attribute that is None is left out.

    >>> element("td", "<b>", class_="n")
    '<td class="n">&lt;b&gt;</td>'
    """
    texts = []
    for key, value in attributes.items():
        if value is not None:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            texts.append(f' {key.rstrip("_").replace("_", "-")}="{html.escape(text, quote=True)}"')
    head = f"<{tag}{''.join(texts)}"
    if tag in _VOID:
        return Markup(f"{head}/>" if tag not in ("meta", "br", "hr") else f"{head}>")
    return Markup(f"{head}>{joined(*children)}</{tag}>")


def joined(*parts: object) -> Markup:
    """Parts one after another; those that are not markup are escaped, None is left out."""
    return Markup(
        "".join(p if isinstance(p, Markup) else html.escape(str(p)) for p in parts if p is not None)
    )

"""A page that is one file: nothing from elsewhere, nothing that runs."""

from __future__ import annotations

from phloem.ui.markup import Markup, element

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser lets the page do: take in its own style, and nothing else."""


def document(title: str, style: str, *sections: Markup | None) -> str:
    r"""The page's text. `style` is trusted, everything else is escaped already.

    What UTF-8 cannot write (bytes of a foreign file that are no text) is written as `\udcXX`.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *sections))
    text = f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
    return text.encode("utf-8", "backslashreplace").decode()

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from phloem.ui.markup import Markup, element, joined


def test_text_and_attributes_are_escaped() -> None:
    assert element("td", '<b> & "q"', title='"><script>') == (
        '<td title="&quot;&gt;&lt;script&gt;">&lt;b&gt; &amp; &quot;q&quot;</td>'
    )


def test_markup_is_kept_and_none_is_left_out() -> None:
    assert element("p", element("em", "a"), None, 3, class_=None) == "<p><em>a</em>3</p>"
    assert joined("<", Markup("<hr>")) == "&lt;<hr>"


@given(st.text(), st.text())
def test_no_text_makes_an_element(text: str, value: str) -> None:
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(element("td", text, title=value))
    parser.close()
    assert tags == ["td"]

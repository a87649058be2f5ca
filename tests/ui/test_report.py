from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.tiny import table
from tests.ui.made import recipe, rounds, summary_of

import phloem
from phloem.errors import ConfigError, StateError
from phloem.recipe import Recipe
from phloem.ui.report import page, write_report

_VOID = {"meta", "br", "hr"}


class Outline(HTMLParser):
    """The elements of a page, and whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _outline(text: str) -> Outline:
    found = Outline(text)
    assert found.open == []
    return found


def test_a_page_has_charts_tables_and_the_way_to_make_it_again(to_target: Recipe) -> None:
    base = rounds([0.5, 0.91], scale=1000)
    runs = {"this": rounds([0.4, 0.6, 0.92], **{"site-1": "late"}), "fp32": base, "bf16": base}
    summary = summary_of(
        to_target, runs["this"], fp32=summary_of(to_target, base), bf16=summary_of(to_target, base)
    )
    found = _outline(page(to_target, summary, runs))
    assert sum(tag == "svg" for tag, _ in found.tags) == 5
    text = " ".join(found.words)
    for words in (
        "625× fewer bytes than fp32 to 90\u00a0% accuracy",
        "Against no compression",
        "phloem build tiny.toml --compare",
        summary["state_digest"],
        "late",
        "bytes sent, up + down + control (logarithmic)",
        "without training",
    ):
        assert words in text


def test_every_chart_has_a_title_and_a_description(to_target: Recipe) -> None:
    records = rounds([0.4, 0.92])
    text = page(to_target, summary_of(to_target, records), {"this": records})
    assert text.count("<svg") == text.count("<title>") - 1 == text.count("<desc>") == text.count('role="img"')


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing(to_target: Recipe) -> None:
    records = rounds([0.4, 0.92])
    found = _outline(page(to_target, summary_of(to_target, records), {"this": records}))
    for tag, attributes in found.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in " ".join(found.words)
    assert "@import" not in " ".join(found.words)


def test_nothing_from_a_recipe_or_a_site_becomes_markup() -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    made = recipe(description=evil, task={"name": "tests.tiny:Blobs", "nan_site": evil})
    records = rounds([0.4, 0.92], **{"site-1": evil})
    summary = summary_of(made, records)
    summary["metric"]["name"] = evil
    summary["test"] = {evil: 0.5}
    summary["versions"]["numpy"] = evil
    text = page(made, summary, {"this": records})
    tags = {tag for tag, _ in _outline(text).tags}
    assert not tags & {"script", "img"}
    assert "<script" not in text.replace("&lt;script", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_odd_metrics_do_not_break_a_page(to_target: Recipe, value: float) -> None:
    for metrics in ([value], [0.5, value, 0.7], [value] * 3):
        records = rounds(metrics)
        text = page(to_target, summary_of(to_target, records), {"this": records})
        assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
        _outline(text)


def test_a_page_of_one_round_of_nothing_is_written() -> None:
    records = rounds([0.5], scale=0)
    records[0].total_seconds = records[0].seconds = 0.0
    made = recipe(rounds={"max": 1})
    _outline(page(made, summary_of(made, records), {"this": records}))


def test_many_sites_are_listed_but_only_the_largest_are_drawn() -> None:
    made = recipe(sites={"count": 60})
    records = rounds([0.5, 0.6], sites=made.sites.all)
    text = page(made, summary_of(made, records), {"this": records})
    assert text.count("<td>site-") == 60
    assert text.count(">site-") < 60 + 30


def test_a_run_directory_gets_its_report(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=3), out=tmp_path / "run", compare=True)
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert run.summary["state_digest"] in text
    assert ">fp32</th>" in text
    write_report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text("utf-8") == text


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    phloem.build(table(rounds=1), out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(StateError, match="not finished"):
        write_report(tmp_path / "run")


def test_a_report_of_no_run_makes_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nan_is_null_in_every_file_that_a_run_writes(tmp_path: Path) -> None:
    records = rounds([float("nan")])
    line = records[0].to_json()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = type(records[0]).from_json(line)
    assert back.metric != back.metric

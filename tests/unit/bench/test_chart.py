from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bench.chart import AIM, MUST, OURS, THEIRS, draw
from bench.figures import Cell
from bench.rows.row import Line
from tests.support.bench import HTTP, LOG, TCP, result

SVG = "{http://www.w3.org/2000/svg}"
FULL = result(
    HTTP,
    TCP,
    LOG,
    http={"sidecar": [90, 95], "nginx": [40], "envoy": [100], "haproxy": Cell(missing="not installed")},
    tcp={"sidecar": Cell(trouble='a <strange> "reason" & more'), "stunnel": [70]},
    log__on={"sidecar": [0.0]},
)


def elements(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(SVG + tag))  # noqa: S314 - our own drawing


def words(svg: str) -> list[str]:
    return [element.text or "" for element in elements(svg, "text")]


def test_it_is_well_formed_and_holds_every_bar() -> None:
    bars = [(bar[0].text, bar.get("fill")) for bar in elements(draw(FULL), "rect") if len(bar)]
    assert bars == [
        ("sidecar: 92.5", OURS),
        ("nginx: 40.0", THEIRS),
        ("envoy: 100", THEIRS),
        ("stunnel: 70.0", THEIRS),
        ("sidecar: 0", OURS),
    ]


def test_a_line_in_which_more_is_better_says_so() -> None:
    rate = Line("keys.rate", "connections", "a second", more=True)
    found = words(draw(result(HTTP, rate, http={"sidecar": [1.0]}, keys__rate={"sidecar": [2.0]})))
    assert "connections, a second (longer is better)" in found
    assert "HTTP request, µs CPU" in found


def test_it_names_who_has_no_bar() -> None:
    found = words(draw(FULL))
    assert "missing" in found
    assert 'could not run: a <strange> "reason" & more' in found


def test_must_and_aim_are_marked_where_they_lie() -> None:
    svg = draw(result(HTTP, http={"sidecar": [100], "envoy": [100], "nginx": [50]}))
    assert {"must 100", "aim 65.0"} <= set(words(svg))
    marks = {line.get("stroke"): float(line.get("x1", "nan")) for line in elements(svg, "line")[-5:]}
    left = min(float(bar.get("x", "nan")) for bar in elements(svg, "rect") if len(bar))
    assert round((marks[AIM] - left) / (marks[MUST] - left), 2) == 0.65


def test_bars_are_to_scale_and_stay_on_the_paper() -> None:
    svg = draw(result(LOG, log__on={"sidecar": [25], "nginx": [100], "envoy": [50, 400]}))
    bars = [float(bar.get("width", "nan")) for bar in elements(svg, "rect") if len(bar)]
    assert bars[1] == pytest.approx(4 * bars[0], rel=0.01)
    width = float(ET.fromstring(svg).get("width", "nan"))  # noqa: S314 - our own drawing
    assert max(float(line.get("x2", "nan")) for line in elements(svg, "line")) < width
    assert max(float(text.get("x", "nan")) for text in elements(svg, "text")) < width


def test_a_result_without_a_figure_can_be_drawn() -> None:
    assert "HTTP request, µs CPU" in words(draw(result(HTTP)))


def test_it_says_what_it_was_measured_on() -> None:
    assert "Abacus & Sons <II>, 2026-01-02 03:04 UTC" in words(draw(FULL))

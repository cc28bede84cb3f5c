"""matplotlib's SVG made fit to stand inside a page: no style attribute, id, link or font, and colours that are classes.

A page's policy forbids style attributes, and its colours follow light and dark; so a colour that has a name becomes the class
``f-<name>`` (fill) or ``s-<name>`` (stroke), which the page's style sheet paints, and everything else becomes an attribute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from markupsafe import Markup

_LEFT_OUT = ("font-family", "clip-path", "-inkscape-font-specification")
_TIP = 46
"""Height of the box that says what a mark is, with the room around it, in the chart's units."""


def inline(source: str, said: str, names: Mapping[str, str], tips: bool = False) -> Markup:
    """Return an SVG as markup for a page; all text in it is escaped.

    Args:
        source: what matplotlib wrote, with text as text.
        said: what it shows, for those who do not see it.
        names: colour as #rrggbb: its name.
        tips: give every mark that says something (its gid is ``says …``) a box that shows when it is pointed at or focused,
            in place of a title.
    """
    root = ET.fromstring(source)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    shapes = {f"#{one.get('id')}": one for defs in root.iter("defs") for one in defs if one.get("id")}
    _clean(root, shapes, names, tips)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    top = _TIP if tips else 0
    attributes = {
        "class": "chart",
        "role": "group" if tips else "img",
        "aria-label": said,
        "viewBox": f"0 {-top} {width:g} {height + top:g}",
        "width": f"{width * 96 / 72:.0f}",
        "stroke-linejoin": "round",
    }
    root.attrib.clear()
    root.attrib.update(attributes)
    root.tail = None
    return Markup(re.sub(r"\s*\n\s*", "", ET.tostring(root, encoding="unicode")))


def _clean(parent: ET.Element, shapes: Mapping[str, ET.Element], names: Mapping[str, str], tips: bool) -> None:
    for place, element in reversed(list(enumerate(parent))):
        if element.tag in ("metadata", "defs", "style", "title"):
            parent.remove(element)
            continue
        if element.tag == "use":
            element = parent[place] = _copied(element, shapes)
        gid = element.attrib.pop("id", "")
        _paint(element, names)
        _clean(element, shapes, names, tips)
        if element.tag == "g" and not len(element):
            parent.remove(element)
        elif gid.startswith("class "):
            for one in element:
                one.set("class", f"{one.get('class', '')} {gid.removeprefix('class ')}".strip())
        elif gid.startswith("says "):
            _say(element, gid.removeprefix("says "), tips)


def _copied(use: ET.Element, shapes: Mapping[str, ET.Element]) -> ET.Element:
    """The shape that a `use` shows, moved to its place: a page of many charts needs no ids."""
    link = next(value for key, value in use.attrib.items() if key.endswith("href"))
    shape = shapes[link]
    style = "; ".join(filter(None, (shape.get("style"), use.get("style"))))
    place = f"translate({float(use.get('x', 0)):.1f} {float(use.get('y', 0)):.1f})"
    return ET.Element(shape.tag, {"d": shape.get("d", ""), "transform": place, "style": style})


def _paint(element: ET.Element, names: Mapping[str, str]) -> None:
    """Turn a style attribute into classes and attributes, and numbers into short ones."""
    style = element.attrib.pop("style", "")
    classes: list[str] = []
    for key, value in re.findall(r"([\w-]+)\s*:\s*([^;]+)", style):
        named = names.get(value.strip().lower())
        element.attrib.pop(key, None)
        classes = [one for one in classes if not (key in ("fill", "stroke") and one.startswith(f"{key[0]}-"))]
        if key in ("fill", "stroke") and named:
            classes.append(f"{key[0]}-{named}")
        elif key not in _LEFT_OUT:
            element.set(key, value.strip())
    if element.tag == "text" and not any(one.startswith("f-") for one in classes) and not element.get("fill"):
        classes.append("f-ink")
    if classes:
        element.set("class", " ".join(classes))
    element.attrib.pop("clip-path", None)
    for key in ("d", "x", "y", "transform", "points"):
        if key in element.attrib:
            text = re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda found: f"{round(float(found[0]), 1):g}", element.attrib[key])
            element.set(key, " ".join(text.split()))


def _say(element: ET.Element, text: str, tips: bool) -> None:
    if not tips:
        title = ET.Element("title")
        title.text = text
        element.insert(0, title)
        return
    element.attrib.update({"class": "mark", "tabindex": "0", "role": "img", "aria-label": text.replace("\n", ", ")})
    tip = ET.SubElement(element, "g", {"class": "tip"})
    ET.SubElement(tip, "rect", {"x": "60", "y": f"{4 - _TIP}", "width": "560", "height": f"{_TIP - 6}", "rx": "4"})
    for number, line in enumerate(text.split("\n")):
        ET.SubElement(tip, "text", {"x": "70", "y": f"{22 + 15 * number - _TIP}", "font-size": "11px"}).text = line

"""What every page is made with: Jinja2 with autoescape, one style sheet, a policy by which nothing runs or is fetched.

A page is one HTML file. It holds no script, no address that a browser would load, and no style but that of the one
<style> element, whose digest its content-security policy names; so what gets into a page, whatever it is, can neither
run nor call home. Widths of bars and the like are attributes of SVG, because style attributes are forbidden too.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from views.text import count, inert, marked, number, percent, visible, with_options

POLICY = "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def render(template: str, /, *, title: str, style: str = "", **values: Any) -> str:
    """Make a page that stands alone.

    Args:
        template: Name of a file in views/templates that extends page.html.
        title: Of the browser's tab, and the page's heading.
        style: CSS of this page alone, behind the common one; it must hold no foreign text.
        values: What the template shows; all of it is escaped but `Markup`.
    """
    sheet = style_sheet() + style
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    page = environment().get_template(template)
    return page.render(title=title, policy=POLICY.format(digest=digest), sheet=Markup(sheet), **values) + "\n"


@cache
def style_sheet() -> str:
    """Give the style that all pages share."""
    return (files("views") / "styles" / "page.css").read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Give the environment of the templates: everything is escaped, and an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("views", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"visible": visible, "marked": marked, "with_options": with_options}
    made.filters |= {"number": number, "count": count, "percent": percent}
    return made

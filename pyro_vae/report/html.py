"""What pages share: one file that needs no other, and the same plain look."""

from __future__ import annotations

__all__ = ["image", "paragraph", "require_tabulate", "whole"]

import base64
import html
from collections.abc import Sequence


def whole(title: str, parts: Sequence[str]) -> str:
    """Return a page of one self-contained file.

    Arguments:
        title: Its title, as plain text.
        parts: Its body, as HTML.
    """
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def paragraph(text: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def image(png: bytes, text: str) -> str:
    """Return a PNG picture as part of the page.

    Arguments:
        png: The bytes of the file.
        text: What it shows, for those who do not see it.
    """
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


def require_tabulate() -> None:
    """Raise an ImportError with the cure if tabulate is not installed."""
    try:
        import tabulate  # noqa: F401
    except ImportError as error:
        raise ImportError('tables need tabulate: pip install "pyro-vae[cli]"') from error


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
p, dl {{ max-width: 52rem; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; border-bottom: 2px solid #888; padding: .3rem .7rem; }}
td {{ border-bottom: 1px solid #ddd; padding: .25rem .7rem; white-space: nowrap; }}
tbody tr:hover {{ background: #f3f6f9; }}
ul.findings {{ list-style: none; padding: 0; max-width: 60rem; }}
ul.findings li {{ border-left: .35rem solid #888; padding: .1rem .7rem; margin: .5rem 0; }}
ul.findings li.good {{ border-color: #3a8f5c; }} ul.findings li.care {{ border-color: #d9a12b; }}
ul.findings li.bad {{ border-color: #b3261e; }} li .advice {{ color: #555; }}
.verdict {{ font-size: 1.15rem; font-weight: 600; }}
details {{ margin-top: 2rem; }} details dl {{ columns: 3; max-width: none; font-size: 13px; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .4rem 1rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""

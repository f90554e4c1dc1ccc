"""A report as one HTML page that loads nothing: the sections of the Markdown, to sort and filter.

`page` fills the template `page.html` with sections, `runs` says what stands behind a row, and
`library` has the scripts of Vega-Lite. `style.css` and the files of JavaScript are written into the
page: `scheme` turns dark and light, `tables` sorts and filters, `card` shows the run of a row, and
`pictures` draws.
"""

from harness.report.html.page import Content, render

__all__ = ["Content", "render"]

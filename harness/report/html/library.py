"""The scripts that draw pictures: Vega, Vega-Lite and Vega-Embed, 0.9 MB, bundled by vl-convert."""

from harness import extras

BEGIN, END = '<script id="vega">', "</script>"
"""What stands around the library in a page."""


def vega() -> str | None:
    """Return the library as the content of a script element; None without vl-convert.

    vl-convert has it inside, so nothing is downloaded. It takes about five seconds.
    """
    if not extras.is_installed("vl_convert"):
        return None
    # Without pictures a report must not need the package.
    import vl_convert  # noqa: PLC0415

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # A browser turns other ends of lines into `\n` before it computes the hash of a script.
    return bundle.replace("\r\n", "\n").replace("\r", "\n").replace(END, "<\\/script>")


def library_of(page: str) -> str | None:
    """Return the library in a page; None if it has none."""
    _, begun, rest = page.partition(BEGIN)
    return rest.partition(END)[0] if begun else None

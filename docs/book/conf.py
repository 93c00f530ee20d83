"""Settings of the book; ``tools/book.py`` copies this file beside the pages that it has put together."""

project = "wsfp"
author = "the authors of wsfp"
copyright = "2026, the authors of wsfp; texts and figures CC BY 4.0, code MIT"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "sphinx_book_theme"
html_title = "wsfp: weakly supervised face parsing"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_extra_path = ["_extra"]
# One level in the sidebar and a plain field for the search: the theme's other ones have no names for screen readers.
html_theme_options = {
    "show_toc_level": 2, "max_navbar_depth": 1, "navbar_persistent": [],
    "use_download_button": False, "use_fullscreen_button": False,
}  # fmt: skip
html_sidebars = {"**": ["navbar-logo.html", "search-field.html", "sbt-sidebar-nav.html"]}
html_show_sourcelink = False

myst_enable_extensions: list[str] = []  # formulas are MathML already
myst_heading_anchors = 3
nb_execution_mode = "off"  # tools/run_notebooks.py has run them
nb_render_image_options = {"alt": ""}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
# Cross-references of docstrings name things as their module does, not by their full path.
suppress_warnings = ["ref.python"]

"""One self-contained HTML page of an executed notebook: readable without a network and without a kernel."""

import copy
import html
from collections.abc import Iterator

from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.v4 import new_output

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"

# nbconvert's own page asks public servers for these scripts; solutions stay folded as they are in JupyterLab.
TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>details.solution > summary { cursor: pointer; padding: 4px 0 4px 72px; color: #1565c0 }</style>
{%- endblock -%}
{%- block input_group -%}
{%- if 'solution' in cell.metadata.get('tags', []) -%}
<details class="solution"><summary>Solution</summary>{{ super() }}</details>
{%- else -%}
{{ super() }}
{%- endif -%}
{%- endblock -%}
"""


class _Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML, which browsers draw themselves."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return convert(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


class _PageExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        path = context["resources"]["metadata"].get("path", "")
        return MarkdownWithMath(renderer=_Renderer(escape=False, embed_images=True, path=path)).render(source)


def page(notebook: NotebookNode, name: str, folder: str) -> str:
    """HTML text of an executed notebook; ``folder`` is where the pictures of its Markdown cells are looked up."""
    exporter = _PageExporter(raw_template=TEMPLATE)
    return exporter.from_notebook_node(still(notebook), {"metadata": {"name": name, "path": folder}})[0]


def still(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every widget is replaced by what it shows: a page without a kernel cannot move a slider."""
    notebook = copy.deepcopy(notebook)
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs for shown in _shown(output, state)]
    return notebook


def _shown(output: NotebookNode, state: dict) -> Iterator[NotebookNode]:
    view = output.get("data", {}).get(VIEW)
    if view is None:
        yield output
        return
    model = view["model_id"]
    if _values(_values(model, state).get("layout", ""), state).get("visibility") == "hidden":
        return  # a progress bar that was taken away at its end
    inner = list(_captured(model, state))
    if inner:
        yield new_output("stream", name="stdout", text="(run the notebook to move the controls of this figure)\n")
        yield from inner
    else:
        del output.data[VIEW]
        words = " ".join(_words(model, state))
        yield new_output("stream", name="stdout", text=f"{words}\n") if words else output


def _values(model: str, state: dict) -> dict:
    return state.get(model.removeprefix("IPY_MODEL_"), {}).get("state", {})


def _captured(model: str, state: dict) -> Iterator[NotebookNode]:
    """Outputs that a widget's Output areas hold, in the order of its children."""
    values = _values(model, state)
    for output in values.get("outputs", []):
        yield NotebookNode(output)
    for child in values.get("children", []):
        yield from _captured(child, state)


def _words(model: str, state: dict) -> Iterator[str]:
    """Texts of a widget, such as what stands left and right of a progress bar at its end."""
    values = _values(model, state)
    if isinstance(text := values.get("value"), str):
        yield html.unescape(text).strip()
    for child in values.get("children", []):
        yield from _words(child, state)

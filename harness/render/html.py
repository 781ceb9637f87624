"""A Diagnosis as one self-contained HTML file: no script, no request, everything from the target escaped.

Pure. Not covered: opening it.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from harness.render import tree
from harness.render.as_json import timestamp
from harness.render.markdown import single_line_keeping_indent
from harness.render.terminal import HEADINGS, code_lines, link_text, pages
from harness.render.text import single_line
from harness.rules import say
from harness.rules.scene import Scene
from harness.rules.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.evidence import Case
    from harness.findings import Diagnosis, Finding
    from harness.rules.threads import ThreadView

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem;
margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; } .at { background: #ffe9a8; }
.healthy { color: #1b7f3b; } .slow { color: #9a6700; } .hung { color: #b42318; } .unknown { color: #0b6477; }
.stopped, .exited { color: #7a2f8f; } table { border-collapse: collapse; } td, th { padding: .2rem .7rem;
text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } pre { background: #222; }
.at { background: #57480f; } }
"""


def page(case: Case, diagnosis: Diagnosis) -> str:
    """The whole file."""
    return "\n".join(_page(case, diagnosis)) + "\n"


def _page(case: Case, diagnosis: Diagnosis) -> Iterator[str]:
    verdict, scene = diagnosis.verdict, Scene(View(case))
    title = f"{HEADINGS[verdict.state]}: {verdict.cause}"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>"
    yield f'<h1 class="{verdict.state}">{_safe(title)}</h1>'
    yield f"<p>{_safe(verdict.summary)}</p>"
    taken = f"pid {diagnosis.pid} · {diagnosis.headline} · {timestamp(diagnosis.taken_at_seconds)}"
    yield f"<p>{_safe(taken)} · {diagnosis.took_seconds:.1f} s · confidence {verdict.confidence:.0%}</p>"
    yield from _finding(case, verdict)
    if len(diagnosis.findings) > 1:
        yield "<h2>What else may be true</h2>"
        yield from _list(
            f"{each.cause} ({each.confidence:.0%}): {each.summary}" for each in diagnosis.findings[1:]
        )
    if diagnosis.notes:
        yield "<h2>Also</h2>"
        yield from _list(
            f"{each.cause}: {each.summary}" + (f" ({'; '.join(each.evidence)})" if each.evidence else "")
            for each in diagnosis.notes
        )
    if diagnosis.not_checked:
        yield "<h2>Not checked</h2>"
        yield from _list(f"{each.what}: {each.reason}, {each.detail}" for each in diagnosis.not_checked)
    if found := pages(diagnosis):
        yield f"<p>More: {_safe(', '.join(found))}</p>"
    yield "<h2>Stacks of all processes</h2><pre>"
    yield from (html.escape(single_line_keeping_indent(each)) for each in tree.lines(tree.merged(scene.view)))
    yield "</pre><h2>Threads</h2><table><tr><th>pid<th>role<th>thread<th>state<th>CPU<th>waits for</tr>"
    for process in scene.view.processes:
        for thread in process.threads:
            yield _row(scene, thread)
    yield "</table></body></html>"


def _finding(case: Case, verdict: Finding) -> Iterator[str]:
    blamed = verdict.blame
    if blamed is not None:
        where = f"{blamed.file}:{blamed.line} in {blamed.function} ({blamed.thread})"
        yield f"<h2>Look at</h2><p><code>{_safe(where)}</code></p><pre>"
        for line in code_lines(case, verdict):
            yield f'<span class="at">{html.escape(line)}</span>' if line[0] == ">" else html.escape(line)
        yield "</pre>"
    if len(verdict.chain) > 1:
        yield "<h2>Chain</h2>"
        yield from _list(link_text(each) for each in verdict.chain)
    yield "<h2>Because</h2>"
    yield from _list(verdict.evidence)
    if verdict.next_steps:
        yield "<h2>Next</h2>"
        yield from _list(verdict.next_steps)


def _row(scene: Scene, thread: ThreadView) -> str:
    cpu = "" if thread.cpu_cores is None else f"{thread.cpu_cores * 100:.0f} %"
    waits = say.waits_for(scene.wait(thread)) if thread.frames else ""
    cells = (
        thread.process.pid,
        thread.process.role,
        f"{thread.name} ({thread.tid})",
        thread.state,
        cpu,
        waits,
    )
    return "<tr>" + "".join(f"<td>{_safe(str(each))}" for each in cells) + "</tr>"


def _list(items: Iterable[str]) -> Iterator[str]:
    yield "<ul>"
    yield from (f"<li>{_safe(each)}" for each in items)
    yield "</ul>"


def _safe(text: str) -> str:
    return html.escape(single_line(text))

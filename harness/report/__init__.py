"""A whole run looked back on: what `harness report` knows before it is put on a page.

`rows` reads metrics.jsonl, `history` keeps it within bounds, `judge` says what looked wrong, `gather` puts
together the rest of a run directory; `facts` are the types. Not here: the page (`harness.render.report`).
"""

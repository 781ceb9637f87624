"""`harness top`: a run as it is now, read from its directory alone; drawn in `render.top`."""

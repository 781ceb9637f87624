"""Facts into lines for people: pure functions, but for `screen`, which owns the terminal."""

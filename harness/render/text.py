"""Plain helpers of all renderers: numbers for people, and text from a stranger made harmless.

Covers durations, counts, bytes, and lines of a log on their way to a terminal. Pure; knows no width and no
colour of its own. Not here: splitting a log into lines (`harness.watch.lines`).
"""

from __future__ import annotations

import math
import re

# What may stand in a line that goes to a terminal. SGR (colours) is the one escape sequence let through.
_SGR = r"\x1b\[[0-9;:]{0,64}m"
# Sequences that are dropped whole, because their remains would be noise: CSI; OSC, DCS, SOS, PM and APC up to
# their end (BEL or ST) or to the end of the line; two-character escapes.
_SEQUENCES = re.compile(
    rf"(?P<sgr>{_SGR})"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-Z\\^-~]"
)
# C0 but tab and newline, DEL, C1 (an 8-bit CSI works in some terminals), and the marks that reverse text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_RESET = "\x1b[0m"


def harmless(text: str | bytes, *, colours: bool = False) -> str:
    """`text` without anything that moves the cursor, sets titles, rings or reverses; newline and tab stay.

    Colours stay if `colours`, and then end with the text. What is left of other control characters is
    shown: `^G` for BEL, `<9b>` for others.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    if text.isascii() and text.isprintable():
        return text
    coloured = False

    def sequence(match: re.Match[str]) -> str:
        nonlocal coloured
        if not colours or match["sgr"] is None:
            return ""
        coloured = True
        return f"\0{match['sgr'][2:-1]}\0"  # parked between NULs, which `_unsafe` never leaves in the text

    # NULs and backspaces of the text itself first: bars of old Keras redraw themselves with backspaces.
    text = text.replace("\0", "^@").replace("\b", "")
    text = _SEQUENCES.sub(sequence, text)
    parts = text.split("\0")
    parts[0::2] = [_UNSAFE.sub(_shown, part) for part in parts[0::2]]
    parts[1::2] = [f"\x1b[{part}m" for part in parts[1::2]]
    return "".join(parts) + (_RESET if coloured else "")


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"^{chr(code ^ 0x40)}" if code < 0x20 or code == 0x7F else f"<{code:02x}>"


def single_line(text: str | bytes) -> str:
    """`text` made harmless and put on one line."""
    return " ".join(harmless(text).split())


def duration(seconds: float) -> str:
    """0.1 s, 8.4 s, 1:12, 1:02:03, 2 d 03:04:05: what a clock would show, with tenths below a minute."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def clock(seconds: float) -> str:
    """1:58, 0:07, 1:02:03: a duration without tenths."""
    return duration(seconds) if seconds >= 59.95 else f"0:{max(0, int(seconds)):02d}"


def spoken(seconds: float) -> str:
    """0.4 s, 3 min 12 s, 2 h, 3 d 4 h: as people tell an age."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    size, name, smaller, smaller_name = next(
        each
        for each in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
        if whole >= each[0]
    )
    rest = whole % size // smaller
    return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")


def short_seconds(seconds: float) -> str:
    """0.12 s, 3.5 ms, 12 s: a step's time, two or three significant digits."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.2g} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"


def count(value: float) -> str:
    """950, 9.4k, 12M, 3.1G: three characters or so."""
    return _scaled(value, 1_000, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """812 B, 4.1 kB, 0.9 GB: decimal, as disks and the issue trackers of trainers count."""
    if value < 900:
        return f"{value:.0f} B"
    for unit in ("kB", "MB", "GB"):
        value /= 1_000
        if value < 900:
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{value / 1_000:.1f} TB"


def exponent(value: float) -> str:
    """1.00e-3: a learning rate, without the exponent's leading zero."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(power)}" if power else mantissa


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    at = 0
    while abs(value) >= step * 0.9995 and at < len(units) - 1:
        value /= step
        at += 1
    unit = units[at]
    if not unit:
        return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
    return f"{value:.1f}{unit}" if abs(value) < 99.95 else f"{value:.0f}{unit}"

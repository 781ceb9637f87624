import pytest

from harness.render import text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0.0, "0.0 s"),
        (0.1, "0.1 s"),
        (8.44, "8.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00"),
        (72, "1:12"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (2 * 86_400 + 5, "2 d 00:00:05"),
        (-3, "-3.0 s"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_durations_read_like_a_clock(given, shown):
    assert text.duration(given) == shown


@pytest.mark.parametrize(("given", "shown"), [(-1, "0:00"), (7.9, "0:07"), (118, "1:58"), (59.96, "1:00")])
def test_clock_has_no_tenths(given, shown):
    assert text.clock(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (-1, "0.0 s"),
        (59.94, "59.9 s"),
        (180, "3 min"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (3 * 86_400 + 4 * 3_600, "3 d 4 h"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_ages_are_told_as_people_do(given, shown):
    assert text.spoken(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (950, "950"),
        (999.7, "1.0k"),
        (9400, "9.4k"),
        (123_456, "123k"),
        (3.14e9, "3.1G"),
    ],
)
def test_counts_are_short(given, shown):
    assert text.count(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (4100, "4.1 kB"),
        (900_000_000, "0.9 GB"),
        (30.1e9, "30.1 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_decimal(given, shown):
    assert text.size(given) == shown


@pytest.mark.parametrize(("given", "shown"), [(1e-3, "1.00e-3"), (0.0, "0.00e0"), (2.5e-11, "2.50e-11")])
def test_exponents_have_no_leading_zero(given, shown):
    assert text.exponent(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain\tand\nlines", "plain\tand\nlines"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),  # clears the screen
        ("\x1b]0;title\x07after", "after"),  # sets the window's title
        ("\x1b]52;c;cHduZWQ=\x1b\\after", "after"),  # writes the clipboard
        ("\x1b]8;;unfinished", ""),
        ("\x1bPq#0sixel\x1b\\x", "x"),
        ("\x1bc\x1b(B\x1b=reset", "reset"),
        ("a\x1b", "a^["),
        ("ding\x07", "ding^G"),
        ("\x9b31mred", "<9b>31mred"),  # CSI in one byte
        ("100\b\b\b200", "100200"),
        ("nul\x00 del\x7f", "nul^@ del^?"),
        ("abc\u202edef", "abc<202e>def"),  # reverses the text
        ("\x1b[31mred", "red"),
        ("\udcff", "<dcff>"),
        ("\x00[31m\x00", "^@[31m^@"),  # the marks used inside must not be forged
    ],
)
def test_nothing_reaches_the_terminal_but_text(given, shown):
    assert text.harmless(given) == shown


def test_colours_stay_when_asked_for_and_end_with_the_text():
    assert text.harmless("\x1b[1;31mred\x1b[2K", colours=True) == "\x1b[1;31mred\x1b[0m"


def test_bytes_that_are_no_text_are_replaced():
    assert text.harmless(b"ok \xff\xfe") == "ok \ufffd\ufffd"


def test_a_single_line_has_no_line_ends():
    assert text.single_line(b" a\r\nb\tc\x1b[1A ") == "a^M b c"

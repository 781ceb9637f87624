"""The screen on real terminals, pipes and files: what is seen, and that nobody ever waits for it."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import time
import tty

import pytest

from harness.render import screen as screens
from harness.render.screen import Screen
from tests.support import views
from tests.support.env import clean_env
from tests.support.pty_session import Terminal as Shell
from tests.support.wait import wait_for

XTERM = {"TERM": "xterm-256color"}


class Emulator:
    """What a terminal makes of what it is sent: text, line ends, erase line, cursor up; and colours."""

    def __init__(self):
        self.rows, self.row, self.column = [""], 0, 0
        self.raw = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""

    def feed(self, data):
        self.raw += data
        text = self._rest + self._decoder.decode(data)
        whole = len(text) if "\x1b" not in text[-12:] else text.rindex("\x1b")
        if re.match(r"\x1b\[[0-9;]*[A-Za-z]", text[whole:]):
            whole = len(text)
        self._rest = text[whole:]
        for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\n|\r|[^\x1b\r\n]+|\x1b", text[:whole]):
            self._take(token)

    def _take(self, token):
        if token == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.rows):
                self.rows.append("")
        elif token == "\r":
            self.column = 0
        elif token == "\x1b[2K":
            self.rows[self.row] = ""
        elif token == "\x1b[1A":
            self.row = max(0, self.row - 1)
        elif token.startswith("\x1b"):
            assert token.endswith("m"), f"an escape that is no colour: {token!r}"
        else:
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + token + line[self.column + len(token) :]
            self.column += len(token)

    @property
    def lines(self):
        return [line.rstrip() for line in self.rows if line.strip()]


class Terminal:
    """A pseudo-terminal that is read by a thread, unless it is stopped."""

    def __init__(self, columns=120):
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.resize(columns)
        self.emulator = Emulator()
        self._reading = threading.Event()
        self._reading.set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while not self._closed.is_set():
            self._reading.wait()
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    self.emulator.feed(os.read(self.master, 65536))
                except OSError:
                    return

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    def stop(self):
        self._reading.clear()

    def go_on(self):
        self._reading.set()

    @property
    def lines(self):
        return self.emulator.lines

    def hang_up(self):
        self.close_reader()
        os.close(self.master)
        self.master = -1

    def close_reader(self):
        self._closed.set()
        self._reading.set()
        self._thread.join()

    def close(self):
        self.close_reader()
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def show(terminal):
    made = []

    def make(**options):
        made.append(
            Screen(**{"descriptor": terminal.slave, "environ": XTERM, "encoding": "utf-8", **options})
        )
        return made[-1]

    yield make
    terminal.go_on()
    for screen in made:
        screen.close()


def shows(terminal, *lines):
    wait_for(lambda: terminal.lines == list(lines), what=f"{lines}, and not {terminal.lines}")


def live(terminal):
    return terminal.lines[-1] if terminal.lines else ""


# ---- what is seen


def test_output_scrolls_above_a_live_line_that_stays(terminal, show):
    screen = show()
    screen.line("run r1 · runs/latest")
    screen.show(views.view())
    screen.write(b"step 1\nstep 2\n")
    wait_for(lambda: terminal.lines[:3] == ["run r1 · runs/latest", "step 1", "step 2"])
    wait_for(lambda: live(terminal).startswith("train  step 128/400 ━"))
    screen.write(b"step 3\n")
    wait_for(lambda: terminal.lines[2:4] == ["step 2", "step 3"] and live(terminal).startswith("train"))
    assert len(terminal.lines) == 5
    screen.close()
    shows(terminal, "run r1 · runs/latest", "step 1", "step 2", "step 3")


def test_the_live_line_follows_the_run(terminal, show):
    screen = show()
    screen.show(views.view())
    wait_for(lambda: "step 128/400" in live(terminal))
    screen.show(views.view(views.with_beat(views.state(), step=129)))
    wait_for(lambda: "step 129/400" in live(terminal))
    assert len(terminal.lines) == 1


def test_a_progress_bar_of_the_command_moves_in_place(terminal, show):
    screen = show()
    screen.show(views.view())
    for percent in (10, 55, 100):
        screen.write(b"\r%d%%|###" % percent)
        wait_for(
            lambda percent=percent: terminal.lines[:1] == [f"{percent}%|###"] and len(terminal.lines) == 2
        )
    screen.write(b"\ndone\n")
    wait_for(lambda: terminal.lines[:2] == ["100%|###", "done"] and len(terminal.lines) == 3)


def test_an_unfinished_last_line_is_shown_at_the_end(terminal, show):
    screen = show()
    screen.write(b"one\nno newline")
    screen.close()
    shows(terminal, "one", "no newline")


def test_the_command_cannot_move_the_cursor_but_may_use_colours(terminal, show):
    screen = show()
    screen.write(b"\x1b[2J\x1b[31mred\x1b[10A\x1b]0;title\x07 \x07text\n")
    screen.close()
    shows(terminal, "red ^Gtext")
    assert b"\x1b[31mred" in terminal.emulator.raw
    assert b"title" not in terminal.emulator.raw


def test_no_color_means_none(terminal, show):
    screen = show(environ={**XTERM, "NO_COLOR": "1"})
    screen.show(views.view())
    screen.write(b"\x1b[31mred\n")
    wait_for(lambda: len(terminal.lines) == 2)
    screen.close()
    assert re.findall(rb"\x1b\[[0-9;]*m", terminal.emulator.raw) == []


@pytest.mark.parametrize("columns", [20, 33, 80, 250])
def test_any_width_fits(terminal, show, columns):
    terminal.resize(columns)
    screen = show()
    screen.show(views.view())
    screen.write(b"x" * 500)  # an unfinished line wider than the terminal
    wait_for(lambda: len(terminal.lines) == 2)
    assert all(len(line) < columns for line in terminal.lines)


def test_a_window_made_narrow_leaves_nothing_behind(terminal, show):
    screen = show()
    screen.show(views.view())
    wait_for(lambda: live(terminal).startswith("train"))
    wide = len(live(terminal))
    before = len(terminal.emulator.raw)
    terminal.resize(40)
    wait_for(lambda: len(terminal.emulator.raw) > before)
    # The terminal has wrapped the old line into this many rows, all of which are taken away.
    assert terminal.emulator.raw[before:].startswith(b"\r\x1b[2K" + b"\x1b[1A\x1b[2K" * (-(-wide // 40) - 1))


def test_terminals_without_utf8_get_ascii(terminal, show):
    screen = show(encoding="ascii")
    screen.show(views.view())
    screen.line("stalled · loss 6.93 → 4.38 …")
    wait_for(lambda: len(terminal.lines) == 2)
    assert terminal.lines[0] == "stalled - loss 6.93 -> 4.38 ..."
    assert terminal.emulator.raw.isascii()


def test_quiet_is_the_commands_output_alone(terminal, show):
    screen = show(quiet=True)
    screen.show(views.view())
    screen.line("of ours")
    screen.write(b"of the command\n")
    screen.close()
    shows(terminal, "of the command")


def test_paused_it_leaves_the_terminal_in_order_and_then_goes_on(terminal, show):
    screen = show()
    screen.show(views.view())
    wait_for(lambda: live(terminal).startswith("train"))
    screen.pause()
    shows(terminal)
    screen.write(b"meanwhile\n")
    screen.resume()
    wait_for(lambda: terminal.lines[:1] == ["meanwhile"] and live(terminal).startswith("train"))


# ---- no terminal


def read_all(descriptor):
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode()


def test_into_a_pipe_go_plain_lines_without_escapes():
    reading, writing = os.pipe()
    screen = Screen(descriptor=writing, environ=XTERM, encoding="utf-8")
    screen.show(views.view())
    wait_for(lambda: select.select([reading], [], [], 0)[0], what="the first plain line")
    screen.write(b"\x1b[32mone\x1b[0m\r\n\r10%\r100%\ntwo")
    screen.line("stalled")
    screen.close()
    os.close(writing)
    lines = read_all(reading).splitlines()
    plain = [line for line in lines if line.startswith("train  step 128/400  32 %")]
    assert [line for line in lines if line not in plain] == ["one", "100%", "stalled", "two"]
    assert len(plain) == 1


def test_once_it_has_ended_no_plain_line_follows_the_summary():
    reading, writing = os.pipe()
    screen = Screen(descriptor=writing, environ={}, encoding="utf-8")
    screen.show(views.view(status="finished"))
    screen.line("finished · 400 steps")
    wait_for(lambda: select.select([reading], [], [], 0)[0], what="the summary")
    screen.close()
    os.close(writing)
    assert read_all(reading) == "finished · 400 steps\n"


def test_the_plain_line_comes_again_after_a_while(monkeypatch):
    monkeypatch.setattr(screens, "PLAIN_SECONDS", 0.2)
    monkeypatch.setattr(screens, "REFRESH_SECONDS", 0.05)
    reading, writing = os.pipe()
    screen = Screen(descriptor=writing, environ={}, encoding="utf-8")
    screen.show(views.view())
    os.set_blocking(reading, False)
    seen = b""

    def often():
        nonlocal seen
        try:
            seen += os.read(reading, 65536)
        except BlockingIOError:
            return False
        return seen.count(b"train  step") >= 3

    wait_for(often, what="three plain lines")
    screen.close()
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("environ", [{}, {"TERM": "dumb"}, XTERM])
def test_a_terminal_that_cannot_or_a_user_who_will_not_gets_no_live_line(terminal, show, environ):
    screen = show(environ=environ, live=environ != XTERM)
    screen.show(views.view())
    wait_for(lambda: live(terminal).startswith("train  step 128/400  32 %"))
    assert b"\x1b[2K" not in terminal.emulator.raw


# ---- terminals that take nothing


def flood(screen, lines=40_000):
    for number in range(0, lines, 100):
        screen.write(b"".join(b"%06d %s\n" % (number + i, b"x" * 100) for i in range(100)))


def test_a_stopped_terminal_holds_up_nobody_and_costs_bounded_memory(terminal, show):
    screen = show(log_name="runs/latest/log/output.log")
    screen.show(views.view())
    screen.write(b"first\n")
    wait_for(lambda: terminal.lines[:1] == ["first"])
    terminal.stop()
    done = threading.Event()
    writer = threading.Thread(target=lambda: (flood(screen), screen.line("of ours"), done.set()))
    writer.start()
    assert done.wait(20), "writing to a stopped terminal must not wait"
    writer.join()
    assert screen._pending_bytes <= screens.MAX_PENDING_BYTES
    terminal.go_on()
    wait_for(lambda: "of ours" in terminal.lines, deadline_seconds=60, what="the end")
    notes = [line for line in terminal.lines if "not shown" in line]
    assert 0 < len(notes) < 20
    where = r"not shown, the terminal was too slow for it: see runs/latest/log/output\.log"
    assert all(re.fullmatch(rf"\([\d.]+ [kM]?B {where}\)", note) for note in notes)
    assert terminal.lines[0] == "first"
    assert [line for line in terminal.lines if line.startswith("039999 ")]
    numbers = [int(line[:6]) for line in terminal.lines if re.match(r"\d{6} ", line)]
    assert numbers == sorted(numbers)


def test_closing_does_not_wait_for_a_stopped_terminal(terminal, show):
    terminal.stop()
    screen = show()
    flood(screen, 5000)
    closing = threading.Thread(target=screen.close, args=(0.2,))
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


def test_pausing_does_not_wait_for_a_stopped_terminal(terminal, show):
    terminal.stop()
    screen = show()
    flood(screen, 5000)
    pausing = threading.Thread(target=screen.pause, args=(0.2,))
    pausing.start()
    pausing.join(20)
    assert not pausing.is_alive()


def test_a_background_job_is_not_stopped_for_writing(tmp_path):
    """Under `stty tostop` the terminal stops background jobs that write: here, with the supervision."""
    script = tmp_path / "writes.py"
    script.write_text(
        "import os, time\n"
        "from harness.render.screen import Screen\n"
        "screen = Screen()\n"
        "screen.write(b'from the background\\n')\n"
        "screen.close()\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    shell = Shell(cwd=tmp_path, env=clean_env(TERM="xterm-256color"))
    try:
        shell.type(f"stty tostop; {sys.executable} {script} & \r")
        wait_for((tmp_path / "done").exists, what="the job to run to its end")
        shell.wait_for("from the background")
    finally:
        shell.close()


def test_a_closed_terminal_is_given_up_in_silence(terminal, show):
    screen = show()
    screen.show(views.view())
    wait_for(lambda: live(terminal).startswith("train"))
    terminal.hang_up()
    screen.write(b"more\n")
    wait_for(lambda: not screen._thread.is_alive(), what="the screen to give up")
    flood(screen)
    assert screen._pending_bytes == 0 or not screen._items


def test_a_pipe_that_nobody_reads_is_given_up_in_silence():
    reading, writing = os.pipe()
    screen = Screen(descriptor=writing, environ={}, encoding="utf-8")
    os.close(reading)
    screen.write(b"more\n")
    wait_for(lambda: not screen._thread.is_alive(), what="the screen to give up")
    screen.close()
    os.close(writing)


def test_where_the_reader_has_left_our_lines_alone_go_elsewhere_and_no_half_line_of_the_command():
    reading, writing = os.pipe()
    spare_reading, spare = os.pipe()
    screen = Screen(descriptor=writing, environ={}, encoding="utf-8", log_name="the log", spare=spare)
    os.close(reading)
    screen.write(b"one\nhalf of ano")
    wait_for(lambda: not screen.shows_output, what="the screen to turn away")
    screen.line("finished")
    screen.close()
    os.close(writing)
    os.close(spare)
    said = "nobody reads this output any more: all of it is in the log\nfinished\n"
    assert read_all(spare_reading) == said


def test_told_of_the_hang_up_it_writes_no_more(terminal, show):
    screen = show()
    screen.hang_up()
    screen.write(b"more\n")
    screen.close()
    assert terminal.lines == []


def test_a_pipe_made_non_blocking_by_somebody_loses_nothing():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    screen = Screen(descriptor=writing, environ={}, encoding="utf-8")
    data = b"".join(b"%05d\n" % number for number in range(30_000))
    screen.write(data)
    received = b""
    end = time.monotonic() + 60
    while len(received) < len(data) and time.monotonic() < end:
        received += os.read(reading, 65536)
    screen.close()
    os.close(writing)
    os.close(reading)
    assert received == data

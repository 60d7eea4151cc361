"""Bars on a terminal, few lines elsewhere."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from kilobit.cluster.console import (
    Bar,
    Notebook,
    Terminal,
    followed,
    stderr_console,
    waiting,
    wide_table,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_line_and_then_one_every_ten_seconds_at_most() -> None:
    text, clock = io.StringIO(), Clock()
    with Bar(Console(file=text), "baking", 100, clock) as bar:
        for _ in range(26):
            clock.now += 1
            bar.advance()
        # Nothing was done meanwhile, so there is nothing to say.
        clock.now += 100
        bar.reach(26)
        bar.reach(90)
    assert text.getvalue().splitlines() == [
        "baking",
        "baking: 10 of 100",
        "baking: 20 of 100",
        "baking: 90 of 100",
    ]


def test_a_terminal_shows_a_bar_that_goes_away() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, markup=False)
    with Bar(console, "baking [red]bread[/]", 3) as bar:
        bar.advance()
        bar.advance()
    assert "baking [red]bread[/]" in text.getvalue()
    assert "2/3" in text.getvalue()
    # What is left erases the line.
    assert text.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {}])
def test_a_terminal_that_can_not_go_back_gets_lines(environment: dict[str, str]) -> None:
    text = io.StringIO()
    terminal = bool(environment)
    console = Console(file=text, force_terminal=terminal, _environ=environment)
    with waiting(console, "thinking"), Bar(console, "baking", 1):
        pass
    assert text.getvalue() == "thinking\nbaking\n"


@pytest.mark.parametrize("way", ["print", "table", "bar", "stderr", "notebook"])
def test_what_others_wrote_controls_no_terminal(
    way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = "a\x1b[2Jb\x07c\u202ed\x9be\rf\x00\x08"
    shown = list[str]()
    console: Console = Notebook(shown.append) if way == "notebook" else Terminal()
    if way == "table":
        console.print(wide_table(console, [text], [[text]], text))
    elif way == "bar":
        with Bar(console, text, 2) as bar:
            bar.advance()
    elif way == "stderr":
        stderr_console().print(text)
    else:
        console.print(text)
    said = "".join([*capsys.readouterr(), *shown])
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in said
    assert not set(said) & set("\x1b\x07\u202e\x9b\r\x00\x08")


def test_results_pass_through_and_an_error_ends_the_bar() -> None:
    def results() -> Iterator[int]:
        yield 1
        raise OSError("no")

    text = io.StringIO()
    console = Console(file=text, force_terminal=True)
    found = followed(results(), "baking", 2, console)
    assert next(found) == 1
    with pytest.raises(OSError, match="no"):
        next(found)
    assert console._live_stack == []

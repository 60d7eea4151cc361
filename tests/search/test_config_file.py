"""Reading a settings file; `run` shows the same errors in `tests/cluster/cli/`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from kilobit.search.config_file import ConfigError, apply_override, load_config
from kilobit.search.settings import Config


class Circle(Config):
    kind: Literal["circle"]
    radius: float


class Square(Config):
    kind: Literal["square"]
    side: float


class Inner(Config):
    count: int = 1
    ratio: float = 0.5


class Outer(Config):
    name: str = "none"
    inner: Inner = Inner()
    shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    numbers: tuple[int, ...] = ()


VARIANTS = {"shape": ("circle", "square")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def read(file: Path, text: str, *overrides: str) -> Outer:
    file.write_text(text, "utf-8")
    return load_config(file, Outer, overrides, VARIANTS)


def refused(file: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(file, text, *overrides)
    return str(caught.value).replace(str(file), "FILE")


def test_values_come_from_the_file_and_overrides_win(file: Path) -> None:
    text = "name: a\ninner: {count: 2}\nnumbers: [1, 2]\n"
    expected = Outer(name="a", inner=Inner(count=2), numbers=(1, 2))
    assert read(file, text) == expected
    changed = read(file, text, "inner.ratio=0.25", "numbers=[3]", "name=b=c", "inner.ratio=1e-3")
    assert changed == Outer(name="b=c", inner=Inner(count=2, ratio=0.001), numbers=(3,))


def test_an_exponent_without_a_point_is_a_number(file: Path) -> None:
    for text, value in (("1e-3", 0.001), ("2E+4", 20000.0), ("-1.e1", -10.0)):
        assert read(file, f"inner: {{ratio: {text}}}").inner.ratio == value


@pytest.mark.parametrize("value", ["'3'", "true", "3.5", "null"])
def test_a_whole_number_is_made_of_nothing_else(file: Path, value: str) -> None:
    said = refused(file, f"name: a\ninner:\n  count: {value}\n")
    assert said.startswith("FILE, line 3: inner.count: Input should be a valid integer")


def test_each_problem_has_its_own_line(file: Path) -> None:
    said = refused(file, "name: 1\ninner:\n  count: x\n  ratio: 0.1\nnumbers:\n- 1\n- two\n")
    assert said.splitlines() == [
        "FILE, line 1: name: Input should be a valid string (found 1)",
        "FILE, line 3: inner.count: Input should be a valid integer (found 'x')",
        "FILE, line 7: numbers.1: Input should be a valid integer (found 'two')",
    ]


def test_an_unknown_key_is_answered_with_the_keys_that_stand_there(file: Path) -> None:
    said = refused(file, "inner:\n  cuont: 1\n")
    expected = "unknown key 'inner.cuont'. Did you mean 'count'? Known here: count, ratio."
    assert said == f"FILE, line 2: {expected}"
    assert "Did you mean" not in refused(file, "zzz: 1\n")


def test_a_problem_of_an_override_is_at_the_command_line(file: Path) -> None:
    said = refused(file, "inner: {count: x}\nname: 5\n", "inner.count=y")
    assert said.splitlines() == [
        "FILE, line 2: name: Input should be a valid string (found 5)",
        "command line: inner.count: Input should be a valid integer (found 'y')",
    ]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("{kind: cube}", "shape.kind must be one of 'circle', 'square' (found 'cube')"),
        ("{side: 1.0}", "'shape.kind' is missing; it is one of 'circle', 'square'"),
        ("{kind: circle}", "'shape.radius' is missing"),
        ("{kind: square, side: x}", "shape.side: Input should be a valid number (found 'x')"),
    ],
)
def test_a_kind_is_not_a_part_of_the_field(file: Path, shape: str, message: str) -> None:
    assert refused(file, f"name: a\nshape: {shape}\n") == f"FILE, line 2: {message}"


def test_messages_are_in_the_terms_of_yaml_and_show_no_password(file: Path) -> None:
    said = refused(file, "numbers: https://me:sesame@host\ninner: 3\n")
    assert said.splitlines() == [
        "FILE, line 2: inner: Input should be keys with values (found 3)",
        "FILE, line 1: numbers: Input should be a list",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "FILE, line 2: the key 'name' is given twice"),
        ("inner:\n  count: 1\n  count: 1\n", "FILE, line 3: the key 'count' is given twice"),
        ("numbers: []\n1: 2\n", "FILE, line 2: the key 1 is not text: write it in quotes"),
        ("name: &x a\ninner: *x\n", "FILE, line 2: YAML aliases (*x) are not allowed"),
        ("name: !!python/name:os.system x\n", "FILE, line 1: YAML tags (tag:yaml.org,2002:pyth"),
        ("numbers:\n- 1\n- !!int ''\n", "FILE, line 3: YAML tags (tag:yaml.org,2002:int) are not"),
        ("name: !!bool maybe\n", "FILE, line 1: YAML tags (tag:yaml.org,2002:bool) are not"),
        ("name: !!timestamp abc\n", "FILE, line 1: YAML tags (tag:yaml.org,2002:timestamp) are"),
        ("name: &x [*x]\n", "FILE, line 1: YAML aliases (*x) are not allowed"),
        (f"name: a\nnumbers: {'[' * 20000}", "FILE, line 2: nested more than 50 levels deep"),
        (f"numbers: {'{a: ' * 20000}", "FILE, line 1: nested more than 50 levels deep"),
        (f"numbers:\n{'- ' * 20000}1", "FILE, line 2: nested more than 50 levels deep"),
        ("- 1\n", "FILE: a YAML mapping is needed, found list"),
        ("", "FILE: a YAML mapping is needed, found NoneType"),
    ],
)
def test_a_file_that_says_two_things_or_none_is_refused(
    file: Path, text: str, message: str
) -> None:
    assert refused(file, text).startswith(message)


def test_a_whole_number_has_an_end(file: Path) -> None:
    most = "1" * 100
    assert read(file, f"inner: {{count: {most}}}").inner.count == int(most)
    said = refused(file, f"name: a\ninner: {{count: 1{most}}}")
    assert said == "FILE, line 2: not valid YAML: a whole number has at most 100 digits"


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_what_only_yaml_takes_for_a_line_end_is_text_where_it_is_escaped(
    file: Path, end: str
) -> None:
    code = f"{ord(end):04x}"
    assert read(file, f'name: "a \\u{code} b"').name == f"a {end} b"
    message = refused(file, f'numbers: [1]\nname: "a {end} b"\n')
    assert f", line 2: YAML would end a line at the character U+{code.upper()}" in message
    assert message.endswith(f"write it as \\u{code} between double quotes")


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml: No such file or directory$"):
        load_config(file, Outer)


def test_a_date_is_text(file: Path) -> None:
    assert read(file, "name: 2026-13-45\n").name == "2026-13-45"


def test_only_a_regular_file_of_some_size_is_read(file: Path) -> None:
    os.mkfifo(file)
    for path, reason in (
        (file, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (file.parent, "not a regular file"),
    ):
        with pytest.raises(ConfigError, match=f"{path}: {reason}$"):
            load_config(path, Outer)
    file.unlink()
    said = refused(file, "# " + "x" * (1 << 20))
    assert said == "FILE: larger than the allowed 1048576 bytes"


def test_a_message_has_at_most_ten_problems(file: Path) -> None:
    said = refused(file, f"numbers: [{', '.join('a' * 30)}]").splitlines()
    assert len(said) == 11
    assert said[-1] == "and 20 more problems"


def test_an_override_makes_the_mappings_on_its_way() -> None:
    data: dict[str, Any] = {"a": {"b": 1}}
    assert apply_override(data, "a.c.d=[1, x]") == ["a", "c", "d"]
    assert apply_override(data, "e=") == ["e"]
    assert data == {"a": {"b": 1, "c": {"d": [1, "x"]}}, "e": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "an override is written key=value"),
        ("=1", "an override is written key=value"),
        ("a..b=1", "an override is written key=value"),
        ("a.b=1", "'a' is a value"),
        ("b={", "the value is not valid YAML"),
        ("b={1: 2}", "the key 1 is not text"),
        ("b=[&x 1, *x]", r"YAML aliases \(\*x\) are not allowed"),
        ("b=!!int ''", r"YAML tags \(tag:yaml.org,2002:int\) are not allowed"),
        (f"b={'[' * 20000}", "nested more than 50 levels deep"),
    ],
)
def test_an_override_that_can_not_be_made_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_override({"a": 1}, override)

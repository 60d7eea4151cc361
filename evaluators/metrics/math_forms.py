r"""Forms of mathematical answers that math-verify reads as more than they say.

`plain_form` rewrites an answer so that math-verify reads its value, and `same_form` compares what
math-verify drops: it adds up numbers that stand side by side, ignores the base of a number, reads
the end of any equation, and takes an ordered list for a set. Texts in, booleans or texts out;
nothing is raised.
"""

import re
from decimal import Decimal

# White space of LaTeX, beside that of Unicode.
_SPACE = (
    r"(?:\s|~|\\[,;:!> ]|\\(?:thin|med|thick|negthin|en)space(?![a-z])|\\q?quad(?![a-z])|\{\s*\}"
    r"|\\hspace\*?\{[^{}]*\}|\\kern[0-9.]+[a-z]+)"
)
_GROUPS = re.compile(
    rf"(?<![0-9.,])([0-9]{{1,3}})((?:(?:\{{,\}}|,|{_SPACE})(?:\\!\s*)?[0-9]{{3}}(?![0-9]))+)(?!,?[0-9])"
)
_TWO_NUMBERS = re.compile(
    rf"[0-9](?:{_SPACE})+\.?[0-9]|[0-9]\{{[0-9]|[0-9](?:{_SPACE})*(?:\\left)?\|[0-9]"
    rf"|\\[cdt]?frac(?:\{{[0-9]+\}}\{{[0-9]+\}}(?:{_SPACE})*[0-9]|[0-9]{{3}})"
)
# A fraction, whose parts need no braces if they are one digit or one name.
_FRACTION = re.compile(
    r"(\\[cdt]?frac)\s*([0-9]|\\pi(?![a-z])|\{[^{}]*\})\s*([0-9A-Za-z]|\\pi(?![a-z])|\{[^{}]*\})"
)
# What math-verify would make the whole part of a mixed number.
_BEFORE_FRACTION = re.compile(
    r"(?:\\(?:[cdt]?frac|[dt]?binom)\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}|[0-9]\^\{[0-9]+\}|\)|!)"
    rf"(?:{_SPACE})*(?=\\[cdt]?frac)"
)
_MIXED = re.compile(
    rf"[0-9](?:{_SPACE})*\\[cdt]?frac(?:\{{([0-9]+)\}}\{{([0-9]+)\}}|([0-9])([0-9]))"
)
_UNFINISHED = re.compile(r"\\(?:[lcd]?dots|approx|sim)(?![a-z])")
_PRODUCT = re.compile(rf"(?<=[0-9)])(?:{_SPACE})*(?=(?:\\left)?\()|(?<=\))(?:{_SPACE})*(?=[0-9])")
_WRAPPED = re.compile(r"\$+(.*?)\$+|\\boxed\{(.*)\}|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_BASE = re.compile(r"\(?([0-9A-Za-z.]+)\)?_\{?(?:\\(?:text|mathrm)\{)?([0-9A-Za-z]+)\}{0,2}")
_HAS_BASE = re.compile(rf"[0-9)}}](?:{_SPACE})*_")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
# An equation's left side that is a name: no number, no operator, no constant.
_NAME = re.compile(
    r"(?!.*\\(?:pi|infty|frac|dfrac|tfrac|sqrt|cdot|times|div|pm|mp|int|sum|log|ln|sin|cos|tan)\b)"
    r"[^-+*/^!|%0-9]+(?:_\{?[0-9]\}?|\([^()]*\))?"
)
_AND = re.compile(r"\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|(?<!\\)[;,]")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\{\s*([A-Za-z]+)\.?\s*\}(?:\^\{?([0-9])\}?)?$")
_UNITS = {"mm", "cm", "m", "km", "in", "ft", "yd", "mi", "g", "kg", "oz", "lb", "ml", "l", "s", "h"}
_PAIRS = {("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("{", "}")}


def plain_form(text: str) -> str:
    r"""Return `text` without delimiters and grouping of digits, and with explicit products.

    So `$1\,450$` becomes 1450, `2(3)` becomes `2\cdot (3)` and `\frac1{2}` becomes `\frac{1}{2}`.
    """
    text = text.strip()
    while found := _WRAPPED.fullmatch(text):
        text = next(part for part in found.groups() if part is not None).strip()
    # A pair of numbers in brackets is a pair, not a number with its thousands.
    if not brackets(text):
        text = _GROUPS.sub(_ungrouped, text)
    text = _BEFORE_FRACTION.sub(lambda found: rf"{found[0]}\cdot ", _FRACTION.sub(_braced, text))
    return _PRODUCT.sub(lambda _: r"\cdot ", text)


def _braced(found: re.Match[str]) -> str:
    return found[1] + "".join(f"{{{part.strip('{}')}}}" for part in found.groups()[1:])


def _ungrouped(found: re.Match[str]) -> str:
    """Return the digits of a number in groups; `12,102` in round or square brackets is a pair."""
    before = re.sub(r"[^()[\]]", "", found.string[: found.start()])
    is_inside = len(re.findall(r"[(\[]", before)) * 2 > len(before)
    is_pair = is_inside and re.search("[0-9],[0-9]", found[0]) is not None
    return found[0] if is_pair else re.sub("[^0-9]", "", found[0])


def has_two_numbers(text: str) -> bool:
    """Return whether numbers stand side by side in a plain form; math-verify would add them up.

    A whole number before a fraction of less than 1 is one mixed number.
    """
    mixed = ([int(part) for part in found.groups() if part] for found in _MIXED.finditer(text))
    return _TWO_NUMBERS.search(text) is not None or any(above >= below for above, below in mixed)


def is_unfinished(text: str) -> bool:
    """Return whether a plain form says that it goes on or is not exact; math-verify drops that."""
    return _UNFINISHED.search(text) is not None


def decimal(text: str) -> Decimal | None:
    """Return the exact value of a plain form that is a decimal number, else None."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def same_base(gold: str, output: str) -> bool | None:
    """Return whether two numbers have the same digits and base; None if neither has a base."""
    if not _HAS_BASE.search(gold) and not _HAS_BASE.search(output):
        return None
    found = [_BASE.fullmatch(re.sub(_SPACE, "", text)) for text in (gold, output)]
    if None in found:
        return False
    (first, base), (second, other) = (one.groups() for one in found if one is not None)
    return (first.lstrip("0").lower(), base) == (second.lstrip("0").lower(), other)


def sides(text: str) -> list[str]:
    """Return the sides of an equation that have to equal the answer: those that are no names.

    A text without an equals sign has one side. Several equations have no sides unless each gives a
    name its value; then math-verify compares them.
    """
    if "=" not in text:
        return [text]
    pieces = _AND.split(text)
    if len(pieces) == 1:
        *before, last = text.split("=")
        return [*(side for side in before if not _NAME.fullmatch(side.strip())), last]
    if all(_NAME.fullmatch(s.strip()) for piece in pieces for s in piece.split("=")[:-1]):
        return [text]
    return []


def brackets(text: str) -> str:
    r"""Return the two brackets around a list such as `(1,2)` or `\{1,2\}`, empty without any."""
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?)(?![a-z])", "", text.strip())
    text = text.replace("\\{", "{").replace("\\}", "}")
    pair = (text[:1], text[-1:])
    if pair not in _PAIRS or "," not in text or len(items(text[1:-1])) < 2:
        return ""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return "".join(pair) if place == len(text) - 1 else ""
    return ""


def items(text: str) -> list[str]:
    """Return the parts of a list, at separators outside of all brackets."""
    parts, depth, begin = [], 0, 0
    marks = {found.start(): found.end() for found in _AND.finditer(text)}
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        # The braces of `\\text{ or }` are part of the separator.
        if place in marks and depth == 0:
            parts.append(text[begin:place])
            begin = marks[place]
    return [*parts, text[begin:]]


def same_form(gold: str, output: str) -> bool:
    """Return whether two plain forms are lists of the same kind and length, or no lists.

    A list without brackets may stand for one in round brackets if the order is the same, and for a
    set.
    """
    first, second = _UNIT.search(gold), _UNIT.search(output)
    if first and second and first.groups() != second.groups():
        units = {first[1].lower(), second[1].lower()}
        if units <= _UNITS:
            return False
    kinds = brackets(gold), brackets(output)
    if kinds[0] == kinds[1]:
        return bool(kinds[0]) or len(items(gold)) == len(items(output))
    bare = items(gold if not kinds[0] else output)
    # A single item may be an inequality, or have a name before the list.
    return "" in kinds and (len(bare) == 1 or bool({"()", "{}"} & set(kinds)))


def as_list(gold: str, text: str) -> str:
    """Return `text` in round brackets if it is a list without any and `gold` has them."""
    bare = not brackets(text) and len(items(text)) > 1
    return f"({text})" if bare and brackets(gold) == "()" else text

"""A strict parser of numbers: a text in, its exact value or None out.

A number is the whole text, white space at both ends aside: an optional minus sign, an optional
dollar sign before or after it, digits with or without thousands separators, an optional decimal
part, an optional final period. So `-1,450.50`, `$18`, `18.00` and `18.` are numbers; `18 dollars`,
`= 18`, `1,45`, `+18`, `50%`, `1/2` and `1e3` are not. Values are exact: 18 and 18.00 are equal.
"""

import re
from decimal import Decimal

_NUMBER = re.compile(
    # U+2212 is the typographic minus sign.
    "(?P<minus>[-\u2212]?)[$]?(?P<inner>[-\u2212]?)"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?P<part>\.[0-9]+)?\.?"
)


def parse_number(text: str) -> Decimal | None:
    """Return the value of `text`, or None if it is not a number."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or (found["minus"] and found["inner"]):
        return None
    digits = found["whole"].replace(",", "") + (found["part"] or "")
    if not digits:
        return None
    value = Decimal(digits)
    # Unary minus would round a long number to the precision of the decimal context.
    return value.copy_negate() if found["minus"] or found["inner"] else value


def plain_number(text: str) -> str | None:
    """Return `text` without dollar sign, thousands separators and final period.

    Returns None if it is not a number.
    """
    value = parse_number(text)
    return None if value is None else f"{value:f}"

"""What `report` and `aggregate` say; their cases belong here."""

from tests.messages.scene import Case

CASES: list[Case] = []

"""What `report` says; the cases of its messages belong here, and the test names what is missing."""

from tests.messages.scene import Case

CASES: list[Case] = []

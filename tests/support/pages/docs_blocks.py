"""The blocks of code in the project's Markdown, and what is said about running them.

A fenced block is run or checked by the tests, by its language. One that can't be says why in a
line before it, which no reader sees:

    <!-- not run: it takes two minutes -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

MARKDOWN = sorted(
    path
    for folder in (".", "docs", "examples", "examples/tiny")
    for path in (REPOSITORY / folder).glob("*.md")
)
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path from the top of the repository.
        line: of its fence.
        language: what stands after the fence.
        text: between the fences.
        reason: why it is not run; None where it is.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Return the path in its first line, `# path`, if it is a file."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml|jsonl))\n", self.text)
        return found[1] if found else None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    page = str(path.relative_to(REPOSITORY))
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]
    assert text.count("```") == 2 * len(found), f"{page}: a fence is indented or not closed"
    return found


BLOCKS = [block for path in MARKDOWN for block in blocks_of(path)]


def output_of(block: Block) -> str | None:
    """Return the text block that follows right after a block, which says what it prints."""
    following = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    lines = block.text.count("\n") + 2
    found = [b.text for b in following if (b.page, b.language) == (block.page, "text")]
    return found[0] if found and following[0].line == block.line + lines + 1 else None


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in these languages that are run."""
    return [b for b in BLOCKS if b.language in languages and b.reason is None]


def without_code(text: str) -> str:
    """Return Markdown without its blocks and spans of code."""
    text = _BLOCK.sub("", text)
    text = re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)

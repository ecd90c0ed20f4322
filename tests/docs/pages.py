"""What the pages of the documentation say, block by block, so that it can be tried.

A fenced block says by its first line what is done with it:

- ```` ```console ````: lines that begin with `$ ` are commands (those after one that begin with `> ` go on
  with it), the others are what they print. A command that prints a line `error: ...`, or ends with the
  comment `# exits N`, must fail with 1, or N; every other one must succeed.
- ```` ```yaml ````: sections of a deployment, which must be valid.
- `file=PATH` after the language: the reader saves the block there.
- `same-as=PATH`: it is that file of the repository, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\S*) *(.*)$")
_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3}(?!\d))*(?:[.:]\d+)*(?:e[-+]?\d+)?")
_RULE = re.compile(r"([━─])\1+")
_EXITS = re.compile(r"# exits (\d+)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it is.
        line: of its fence, from 1.
        language: the first word after the fence.
        options: the other words, as `name=value`.
        text: what is between the fences.
    """

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block, and what it is said to print."""

    where: str
    text: str
    output: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code that it must have."""
        said = _EXITS.search(self.text)
        return int(said[1]) if said else int(any(line.startswith("error: ") for line in self.output))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: the last one does not end.
    """
    found: list[Block] = []
    start: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if start is None and fence:
            start, lines = (number, fence[1], fence[2]), []
        elif start is not None and line == "```":
            options = dict(word.split("=", 1) for word in start[2].split())
            found.append(Block(page, start[0], start[1], options, "".join(f"{text}\n" for text in lines)))
            start = None
        else:
            lines.append(line)
    if start is not None:
        raise ValueError(f"{page.name}:{start[0]}: the block does not end")
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block, in order.

    Raises:
        ValueError: it begins with what a command prints.
    """
    found: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif not found:
            raise ValueError(f"{block.page.name}:{number}: output of no command; commands begin with '$ '")
        elif line.startswith("> ") and not found[-1][2]:
            found[-1][1].append(line[2:])
        else:
            found[-1][2].append(line)
    return [
        Command(f"{block.page.name}:{number}", "\n".join(text), tuple(output))
        for number, text, output in found
    ]


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, and how wide columns are.

    >>> shape("1 2013-Q1  -   0.949"), shape("7 2014-Q3   -  0.93")
    ('# ##-Q# - #', '# ##-Q# - #')
    """
    return " ".join(_RULE.sub(r"\1", _NUMBER.sub("#", line)).split())


def not_printed(said: Sequence[str], printed: Sequence[str]) -> str | None:
    """The first line of a page that a command did not print, in this order and apart from numbers.

    Args:
        said: of the page. A line `...` stands for any number of lines, and ` ...` at the end of a line
            for the rest of it; without any, lines may be left out all the same.
        printed: by the command.

    >>> not_printed(["served  version 2", "..."], ["deployment  taxi", "served      version 3"])
    >>> not_printed(["served  version 2 ..."], ["served  nothing yet"])
    'served  version 2 ...'
    """
    rest = iter([shape(line) for line in printed])
    for line in said:
        wanted = shape(line)
        if wanted in ("", "..."):
            continue
        cut = wanted.removesuffix(" ...")
        if not any(real.startswith(cut) if cut != wanted else real == wanted for real in rest):
            return line
    return None


def links(page: Path) -> Iterator[tuple[str, str]]:
    """The links of a page to files of the repository: (path, heading), either may be empty."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            path, _, heading = target.partition("#")
            yield path, heading


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

"""A reader's day: every command of the documentation, page after page, in one fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import Block, blocks, commands, headings, links, not_printed
from tests.docs.shell import Shell

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# In the order of reading; the state that one page leaves, the next one finds.
READ = ["quickstart", "your-data", "models", "drift-and-gates", "learning", "operating"]
PAGES = [*(DOCS / f"{name}.md" for name in READ), ROOT / "README.md", DOCS / "README.md"]
COMMAND_SECONDS = 400.0


class Clone:
    """What a reader has: the deployment of the repository, `retrain` on the path, two free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs/taxi.yaml", "schemas/taxi.pbtxt"):
            (folder / name).parent.mkdir()
            shutil.copy(ROOT / name, folder / name)
        # Whatever holds the environment that runs the tests, the page calls it .venv.
        (folder / ".venv").symlink_to(Path(sys.prefix))
        self.ports = {"8500": _free_port(), "8501": _free_port()}
        self.left_at: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RETRAIN_")}
        return {**kept, "PATH": f"{self.folder}/.venv/bin:{os.environ['PATH']}", "COLUMNS": "80"}

    def follow(self, page: Path) -> None:
        """Types every command of a page, and saves every file.

        Raises:
            AssertionError: a command does not do what the page says.
        """
        with Shell(self.folder, self.environment) as shell:
            for block in blocks(page):
                if "file" in block.options:
                    target = self.folder / block.options["file"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(block.text)
                for command in commands(block) if block.language == "console" else []:
                    said = f"{command.where}: $ {command.text}\n"
                    try:
                        printed, code = shell.run(self._here(command.text), COMMAND_SECONDS)
                    except (TimeoutError, EOFError) as error:
                        raise AssertionError(f"{said}{error}") from None
                    assert code == command.code, f"{said}exit code {code}; it printed:\n{printed}"
                    missing = not_printed(command.output, self._there(printed).splitlines())
                    assert missing is None, f"{said}does not print\n{missing}\nbut:\n{printed}"

    def _here(self, text: str) -> str:
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text

    def _there(self, text: str) -> str:
        return text.replace(str(self.folder.resolve()), "/srv/retrain").replace(
            str(self.folder), "/srv/retrain"
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.docs
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_does_what_the_page_says(clone: Clone, page: Path) -> None:
    assert clone.left_at is None, f"needs what {clone.left_at} should have left"
    clone.left_at = page.name
    clone.follow(page)
    clone.left_at = None


def _blocks_of(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


# What a snippet leaves out.
BASE: Mapping[str, Any] = {
    "name": "example",
    "schema": "example.pbtxt",
    "state": "state",
    "data": {"path": "data"},
    "label": {"name": "bought"},
    "preprocessing": {"features": {"price": {"type": "numeric"}}},
}


@pytest.mark.parametrize("block", _blocks_of("yaml"), ids=str)
def test_sections_of_a_deployment_are_valid(block: Block) -> None:
    from pipeline.config import Deployment

    Deployment.model_validate({**BASE, **yaml.safe_load(block.text)})


@pytest.mark.parametrize("block", _blocks_of("protobuf"), ids=str)
def test_parts_of_a_schema_are_valid(block: Block) -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    assert text_format.Parse(block.text, schema_pb2.Schema()).feature


def test_what_is_said_to_be_a_file_is_that_file() -> None:
    copies = [block for block in _blocks_of("python", "yaml") if "same-as" in block.options]
    assert copies
    for block in copies:
        assert block.text == (ROOT / block.options["same-as"]).read_text(), str(block)


def test_a_module_that_is_shown_is_tested() -> None:
    for block in _blocks_of("python"):
        assert block.options["same-as"].startswith("tests/"), str(block)


def test_commands_are_in_blocks_that_are_run() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language != "console":
                typed = re.search(r"^(\$ |retrain |curl ).*$", block.text, re.MULTILINE)
                assert typed is None, f"{block}: {typed and typed[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, heading in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        assert not heading or heading in headings(target), f"{page.name}: {path}#{heading}"


def test_the_index_names_every_page() -> None:
    named = {path for path, _ in links(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= named

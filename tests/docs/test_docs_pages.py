"""The runner of the documentation notices what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.pages import blocks, commands, headings, links, not_printed
from tests.docs.shell import Shell


def page(folder: Path, *lines: str) -> Path:
    path = folder / "page.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_blocks_know_their_line_language_and_options(tmp_path: Path) -> None:
    text = page(tmp_path, "# Title", "```yaml file=a.yaml", "name: a", "```", "", "```text", "```")
    first, second = blocks(text)
    assert (first.line, first.language, first.options, first.text) == (
        2,
        "yaml",
        {"file": "a.yaml"},
        "name: a\n",
    )
    assert (second.line, second.language, second.options, second.text) == (6, "text", {}, "")


def test_a_block_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks(page(tmp_path, "```console", "$ true"))


def test_commands_go_on_over_lines_and_keep_their_output(tmp_path: Path) -> None:
    (block,) = blocks(
        page(tmp_path, "```console", "$ cat <<END", "> one", "> END", "one", "$ false  # exits 1", "```")
    )
    first, second = commands(block)
    assert (first.text, first.output, first.code) == ("cat <<END\none\nEND", ("one",), 0)
    assert (second.where, second.output, second.code) == ("page.md:6", (), 1)


def test_a_message_is_an_expected_failure(tmp_path: Path) -> None:
    (block,) = blocks(page(tmp_path, "```console", "$ retrain status", "error: which deployment? ...", "```"))
    (command,) = commands(block)
    assert command.code == 1


def test_output_before_the_first_command_is_refused(tmp_path: Path) -> None:
    (block,) = blocks(page(tmp_path, "```console", "retrain status", "```"))
    with pytest.raises(ValueError, match=r"page\.md:2"):
        commands(block)


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        (["one 7", "...", "three"], None),
        (["two  (0.5 s): and ..."], None),
        (["three", "two (1 s): and so on"], "two (1 s): and so on"),
        (["one eight"], "one eight"),
        (["one"], "one"),
    ],
)
def test_output_is_compared_line_by_line_and_in_order(said: list[str], missing: str | None) -> None:
    assert not_printed(said, ["one 12", "two (3.25 s): and so on", "three"]) == missing


def test_links_and_headings(tmp_path: Path) -> None:
    text = page(
        tmp_path, "# Late data: `--again`", "[a](b.md#c) [d](#e) [f](https://g)", "```text", "[x](y)", "```"
    )
    assert list(links(text)) == [("b.md", "c"), ("", "e")]
    assert headings(text) == {"late-data---again"}


@pytest.fixture
def shell(tmp_path: Path):
    with Shell(tmp_path, os.environ) as shell:
        yield shell


def test_a_session_remembers_and_tells_exit_codes(shell: Shell) -> None:
    assert shell.run("mkdir sub; cd sub; name=x", 10) == ("", 0)
    assert shell.run("basename $PWD; echo $name >&2; (exit 3)", 10) == ("sub\nx\n", 3)


def test_a_command_finds_no_input(shell: Shell) -> None:
    assert shell.run("cat", 10) == ("", 0)


def test_a_command_that_takes_too_long_is_an_error(shell: Shell) -> None:
    with pytest.raises(TimeoutError, match="begun"):
        shell.run("echo begun; sleep 60", 1)


def test_the_end_of_a_session_ends_what_it_started(tmp_path: Path) -> None:
    with Shell(tmp_path, os.environ) as shell:
        begun = "(trap 'touch ended; exit' TERM; touch begun; while true; do sleep 0.1; done) &"
        shell.run(f"{begun} until [ -e begun ]; do sleep 0.1; done", 10)
    assert (tmp_path / "ended").exists()

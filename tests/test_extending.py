"""Every example of docs/extending.md works: its lines are added to a copy of the package, and its second part is run.

An example never touches the package itself, so nothing has to be taken out again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"
PLACE = re.compile(r"# (concordant/\S+\.py)(?:, in ([\w.]+))?\n")
NEW_PAGE = re.compile(r"^```markdown\n<!-- (concordant/\S+) -->\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEW_NAME = re.compile(r'^(\w+) = Literal\[\.\.\., ("\w+")\]\n', re.MULTILINE)
MOST_FILES = 2  # of the package that one thing may touch; its own new file is not counted


@dataclass(frozen=True)
class Addition:
    file: str
    inside: str  # class or class.method; empty: at the end of the file
    lines: str


@dataclass(frozen=True)
class Example:
    title: str
    additions: tuple[Addition, ...]
    use: str


def read_page(text: str) -> tuple[str, list[Example]]:
    """The beginning that all examples share, and the examples."""
    first, *sections = re.split(r"^## (?=An? )", text, flags=re.MULTILINE)
    (beginning,) = python_blocks(first)
    return beginning, [read_section(section) for section in sections]


def python_blocks(text: str) -> list[str]:
    """Whole pieces of Python, and parts of one (``py``), which belong inside a class."""
    return re.findall(r"^```py(?:thon)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def read_section(section: str) -> Example:
    additions, uses = [Addition(file, "", text) for file, text in NEW_PAGE.findall(section)], []
    for block in python_blocks(section):
        if place := PLACE.match(block):
            additions.append(Addition(place[1], place[2] or "", block[place.end() :]))
        else:
            uses.append(block)
    return Example(section.splitlines()[0], tuple(additions), "\n".join(uses))


def added(source: str, addition: Addition) -> str:
    """``source`` as it is after a person has followed the page."""
    if not addition.inside:
        return f"{lengthened(source, addition.lines)}\n\n{NEW_NAME.sub('', addition.lines)}"
    owner = addition.inside.split(".")[0]
    start = re.search(rf"^class {owner}\b", source, re.MULTILINE)
    assert start, f"{addition.file} has no class {owner}"
    if "." in addition.inside:  # the first line is the one that is there already, without a comma at its end
        old = addition.lines.splitlines()[0]
        assert source.count(f"{old},\n", start.start()) == 1, f"{addition.file} has no line {old.strip()}"
        return source[: start.start()] + source[start.start() :].replace(f"{old},\n", addition.lines)
    end = source.find("\n\n\n", start.start())
    return f"{source[:end]}\n{addition.lines.rstrip()}{source[end:]}"


def lengthened(source: str, lines: str) -> str:
    """``source`` with the new names in its types."""
    for kind, name in NEW_NAME.findall(lines):
        source, found = re.subn(
            rf"^({kind} = Literal\[.*?),?\s*\]$", rf"\1, {name}]", source, count=1, flags=re.M | re.S
        )
        assert found == 1, f"no type {kind}"
    return source


BEGINNING, EXAMPLES = read_page(PAGE.read_text(encoding="utf-8"))

# One process loads torch and is forked for each example: an example sees a package of its own, as a person's would be.
RUN_ALL = """
import json, os, sys, traceback
import torch, transformers
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM, LlamaForCausalLM
for folder in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        said = ""
        try:
            exec(compile(open("example.py", encoding="utf-8").read(), "example.py", "exec"), {"__name__": "example"})
        except BaseException:
            said = traceback.format_exc()
        open("said", "w", encoding="utf-8").write(said)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By title, what went wrong with an example; empty where nothing did."""
    folders = {}
    for example in EXAMPLES:
        folder = folders[example.title] = tmp_path_factory.mktemp("example")
        shutil.copytree(ROOT / "concordant", folder / "concordant", ignore=shutil.ignore_patterns("__pycache__"))
        for addition in example.additions:
            file = folder / addition.file
            source = file.read_text(encoding="utf-8") if file.exists() else ""
            file.write_text(added(source, addition), encoding="utf-8")
        (folder / "example.py").write_text(f"{BEGINNING}\n{example.use}", encoding="utf-8")
    paths = json.dumps([str(folder) for folder in folders.values()])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", RUN_ALL, paths], check=True, cwd=next(iter(folders.values())), env=environment
    )
    return {title: (folder / "said").read_text(encoding="utf-8") for title, folder in folders.items()}


@pytest.mark.parametrize("title", [example.title for example in EXAMPLES])
def test_an_example_works(said: dict[str, str], title: str) -> None:
    assert said[title] == "", said[title]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_a_thing_touches_few_files(example: Example) -> None:
    touched = {addition.file for addition in example.additions if (ROOT / addition.file).exists()}
    assert len(touched) <= MOST_FILES, "a wall is in the wrong place"


@pytest.mark.parametrize("title", ["A preference loss", "A reward source", "An environment"])
def test_a_users_own_thing_takes_at_most_30_lines(title: str) -> None:
    (example,) = (example for example in EXAMPLES if example.title == title)
    lines = "\n".join([*(addition.lines for addition in example.additions), example.use]).splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 30


def test_every_kind_of_thing_has_an_example() -> None:
    kinds = "preference loss, advantage, policy loss, reward source, environment, data format, doctor's rule, "
    kinds += "architecture, engine, kernel, metric"
    titles = [example.title for example in EXAMPLES]
    assert titles == [f"{'An' if kind[0] in 'ae' else 'A'} {kind}" for kind in [*kinds.split(", "), "config key"]]
    assert all(example.use for example in EXAMPLES)

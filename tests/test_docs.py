"""The docs say what is true: links lead somewhere, commands parse, examples import, and what is named exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import concordant
from concordant.config.parse import parse_command, split_options
from concordant.config.yaml_io import load_yaml, parse_yaml
from concordant.pipeline.command import DEMO
from concordant.pipeline.plan import read_plan
from concordant.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCTOR = sorted((ROOT / "concordant" / "doctor" / "pages").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")), *DOCTOR]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([\w/.-]+\.py)(?:::([\w.]+))?`")
FROM_ROOT = ("science/", "tests/", "bench/", "concordant/")  # other paths are below concordant/
UNFINISHED = "…"  # stands in an example for options that do not matter there


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without code blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


@cache
def anchors(page: Path) -> set[str]:
    """The ids that a forge gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


@cache
def defined_in(path: Path) -> set[str]:
    """Functions, classes and names of a module, members of classes as ``Class.member``."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    walk(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def commands(page: Path) -> list[str]:
    """Lines of code blocks that start with ``concordant``, continued lines joined."""
    joined = "\n".join(blocks(page, "", "sh", "bash", "console")).replace("\\\n", " ")
    lines = (line.removeprefix("$ ").strip() for line in joined.splitlines())
    return [line for line in lines if line.startswith("concordant ")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} leads nowhere"
        assert found.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line in commands(page)], ids=lambda x: str(x)[-60:]
)
def test_commands_parse(page, line):
    verb, *arguments = shlex.split(line, comments=True)[1:]
    whole = UNFINISHED not in arguments
    arguments = [a for a in arguments if a != UNFINISHED]
    if verb == "VERB" or "--help" in arguments:
        return
    if verb == "run":
        split_options(arguments[1:], "concordant run")
        assert arguments[0].endswith(".yaml")
        assert not arguments[0].startswith("examples/") or (ROOT / arguments[0]).is_file()
    elif verb == "demo":
        options = [(name, values) for name, values in split_options(arguments, "concordant demo") if name != "output"]
        read_plan(load_yaml(DEMO), "demo.yaml", options)
    else:
        if "--config" in arguments:  # the page shows what the file holds, the repository has none
            at = arguments.index("--config")
            arguments, whole = arguments[:at] + arguments[at + 2 :], False
        arguments += [] if whole else ["--print_config"]  # nothing is validated that is only printed
        parse_command(verb, VERBS[verb].config_class(), arguments)


def test_commands_are_found():
    assert len(commands(ROOT / "README.md")) >= 6
    assert sum(len(commands(page)) for page in PAGES) >= 25


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_examples_are_plain_and_pipelines_are_plans(page):
    for code in blocks(page, "yaml"):
        value = parse_yaml(code, name_of(page))
        if "stages" in value:
            assert read_plan(value, name_of(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_import_what_is_there(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("concordant"):
                module = importlib.import_module(str(node.module))
                assert all(getattr(module, alias.name) for alias in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "concordant":
                assert node.attr in concordant.__all__


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_names_in_the_text_exist(page):
    for path, name in NAMED.findall(prose(page)):
        found = ROOT / path if path.startswith(FROM_ROOT) else ROOT / "concordant" / path
        if "/" not in path and not name:
            continue  # a file spoken of in passing
        assert found.is_file(), f"{path} is not there"
        assert not name or name in defined_in(found), f"{path} has no {name}"


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent == ROOT / "docs" and page.name != "index.md":
            assert f"({page.name})" in index, f"docs/index.md does not list {page.name}"


# -- the site -------------------------------------------------------------------------------------


def site_hook():
    spec = importlib.util.spec_from_file_location("mkdocs_hook", ROOT / "docs" / "mkdocs_hook.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


def test_the_sites_navigation_lists_every_page_once():
    hook = site_hook()
    settings = load_yaml(str(ROOT / "mkdocs.yml"))
    listed = [
        page if isinstance(page, str) else [*page.values()][0]
        for group in settings["nav"]
        for page in [*group.values()][0]
    ]
    pages = [hook.site_path(name_of(page)) for page in PAGES if page not in DOCTOR]
    assert sorted(listed) == sorted([*pages, "doctor/symptoms.md", "bench-results.md"])
    assert hook.repository_path("doctor/kl_negative.md") == "concordant/doctor/pages/kl_negative.md"


@pytest.mark.parametrize(
    ("uri", "written", "on_the_site"),
    [
        ("doctor.md", "[x](../concordant/doctor/pages/kl_negative.md)", "[x](doctor/kl_negative.md)"),
        ("doctor/flat_layout.md", "[x](../../../docs/models.md#a)", "[x](../models.md#a)"),
        ("doctor/kl_negative.md", "[x](dropout_on.md)", "[x](dropout_on.md)"),
        ("readme.md", "![x](docs/images/a.png) [y](docs/index.md)", "![x](images/a.png) [y](index.md)"),
        ("readme.md", "[core/losses.py](concordant/core/losses.py)", "core/losses.py"),
        ("index.md", "[x](../README.md) [y](#z) [z](https://a.b/c.md)", "[x](readme.md) [y](#z) [z](https://a.b/c.md)"),
        ("a.md", "```\n[x](../README.md)\n| `a \\| b` |\n```", "```\n[x](../README.md)\n| `a \\| b` |\n```"),
        ("a.md", "| `a \\| b` | c |", "| `a | b` | c |"),
    ],
)
def test_links_of_the_repository_work_on_the_site(uri, written, on_the_site):
    assert site_hook().rewritten(written, uri) == on_the_site


def test_the_readmes_tree_is_the_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in (ROOT / "concordant").glob("*/__init__.py")]
    assert len(folders) > 8
    assert all(f"\n  {folder}/ " in readme for folder in folders)


def test_every_verb_has_its_place_in_the_docs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{verb}`" in readme for verb in VERBS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("## GPT-2's `Conv1D`: what, and why?", "gpt-2s-conv1d-what-and-why"), ("### DPO and its kin", "dpo-and-its-kin")],
)
def test_anchors_are_a_forges(tmp_path, text, expected):
    (tmp_path / "page.md").write_text(text)
    assert anchors(tmp_path / "page.md") == {expected}

"""Every finding has a page in the package, with one form, and ``--explain`` prints it."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import concordant
from concordant.cli import main
from concordant.core.errors import UserError
from concordant.doctor.catalogue import PAGES, explain, limits, names, overview
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_text import MISPLACED
from concordant.doctor.render import finding_text
from concordant.doctor.rules import RULES

PACKAGE = Path(concordant.__file__).parent
SECTIONS = ("Seen", "Why it matters", "Causes", "Cure")


def names_in(node: ast.expr) -> list[str]:
    """The texts that an expression can be: of a text or of ``a if b else c``."""
    if isinstance(node, ast.IfExp):
        return names_in(node.body) + names_in(node.orelse)
    assert isinstance(node, ast.Constant), "a finding's rule is a text in the source"
    return [str(node.value)]


def rules_in_the_source() -> set[str]:
    """The first argument of every ``Finding(...)`` outside the two files whose rules are rows of a table."""
    found = {rule.name for rule in RULES} | set(MISPLACED)
    for path in (PACKAGE / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_finding = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
            if is_finding and path.name not in ("rule.py", "preflight_text.py"):
                found |= set(names_in(node.args[0]))
    return found


def test_every_rule_has_a_page_and_every_page_a_rule():
    assert set(names()) == rules_in_the_source()


SMALL = {0, 1, 2, 0.5}  # none, one, two and a half are no thresholds that somebody chose


def thresholds_in(path: Path) -> list[str]:
    """Comparisons with a number of the code. Arguments of calls count rows, and are left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            in_calls = {id(n) for c in ast.walk(node) if isinstance(c, ast.Call) for n in ast.walk(c)}
            values = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and id(n) not in in_calls]
            if any(isinstance(value, int | float) and value not in SMALL for value in values):
                found.append(f"{path.name}: {ast.unparse(node)}")
    return found


def test_thresholds_stand_on_the_pages_alone(tmp_path):
    """So that a user who reads a page knows when the rule speaks, and a threshold is changed in one place."""
    modules = [*(PACKAGE / "doctor").glob("rules_*.py"), *(PACKAGE / "doctor").glob("preflight_*.py")]
    assert len(modules) > 10
    assert [line for path in modules for line in thresholds_in(path)] == []
    bad = tmp_path / "bad.py"
    bad.write_text("if kl > 25 or share < 0.5 or h.now('loss', 8) > 0: pass")
    assert thresholds_in(bad) == ["bad.py: kl > 25"]


def test_every_threshold_of_a_page_is_read():
    """A limit that no module asks for is a number that changes nothing."""
    source = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "doctor").glob("*.py"))
    unread = {f"{name}: {key}" for name in names() for key in limits(name) if f'["{key}"]' not in source}
    assert unread == set()


def test_every_page_is_listed():
    """In docs/doctor.md, or in the table from symptoms to causes."""
    page = (PACKAGE.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    symptoms = (PAGES / "symptoms.md").read_text(encoding="utf-8")
    listed = re.findall(r"/pages/(\w+)\.md\)", page) + re.findall(r"\]\((\w+)\.md\)", symptoms)
    assert set(listed) == {*names(), "symptoms"}


@pytest.mark.parametrize("name", names())
def test_a_page_has_the_form_of_all(name):
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    live = name in [rule.name for rule in RULES]
    assert all(f"\n## {section}\n" in text for section in (*SECTIONS, *(("Healthy",) if live else ())))


def test_the_list_has_a_line_for_each_rule(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = overview().split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == names() and max(map(len, lines)) <= 80
    assert all(len(line.split()) >= 4 for line in lines)


def test_links_become_names_that_can_be_typed():
    page = explain("kl_negative")
    assert "](" not in page and "sampler_differs, tokens_after_end" in page
    assert "(docs/models.md)" in explain("flat_layout")


@pytest.mark.parametrize("name", [*names(), "symptoms"])
def test_no_page_shows_the_marks_of_a_link(name):
    assert "](" not in explain(name)


def test_an_unknown_rule_gives_the_nearest():
    with pytest.raises(UserError, match='no rule "kl_negativ".*Did you mean "kl_negative"'):
        explain("kl_negativ")


def test_a_word_of_a_rules_name_gives_every_rule_with_it():
    with pytest.raises(UserError, match="Rules with this word: kl_explodes, kl_negative, .*kl_penalty_off"):
        explain("kl")


def test_the_command(capsys):
    assert main(["doctor", "--explain", "truncation"]) == 0
    assert capsys.readouterr().out.startswith("# truncation\n")
    for arguments in (["--explain"], ["--explain", "all"]):
        assert main(["doctor", *arguments]) == 0
        assert capsys.readouterr().out == overview() + "\n"
    assert main(["doctor", "--explain", "truncatoin"]) == 2
    assert 'Did you mean "truncation"?' in capsys.readouterr().err
    assert main(["doctor", "runs/x", "--explain", "truncation"]) == 2
    assert "would do nothing" in capsys.readouterr().err


def test_a_page_needs_no_torch():
    code = (
        "import sys; from concordant.cli import main; main(['doctor', '--explain', 'disk']);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr == "[]\n"


def test_a_finding_names_its_command():
    finding = Finding("truncation", "warning", "seen", "cause", "cure")
    assert finding.command == "concordant doctor --explain truncation" and finding.page == "doctor/truncation/"


def test_no_finding_sends_a_reader_to_a_file_of_the_repository():
    """Who installed the package has no docs/: ``--explain`` has the page."""
    for path in (PACKAGE / "doctor").glob("*.py"):
        texts = [
            node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
        ]
        assert not [text.value for text in texts if isinstance(text.value, str) and "docs/" in text.value], path.name
    assert "documentation" not in finding_text(Finding("truncation", "warning", "seen", "why", "cause", "cure")).plain


def test_every_file_of_the_package_is_installed():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["concordant"]
    data = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert len(data) > len(names())
    assert [str(p) for p in data if not any(fnmatch.fnmatch(str(p), pattern) for pattern in patterns)] == []

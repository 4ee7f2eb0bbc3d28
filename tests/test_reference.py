from __future__ import annotations

from pathlib import Path

import concordant
from concordant.reference import reference
from concordant.verbs import VERBS

PAGE = Path(concordant.__file__).parent.parent / "docs" / "config.md"


def test_the_page_is_what_the_source_says():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m concordant.reference > docs/config.md"


def test_every_verb_has_its_section():
    assert all(f"## {verb}\n" in reference() for verb in VERBS)

"""Every pipeline among the examples is one that ``concordant run`` takes."""

from pathlib import Path

import pytest

from concordant.config.yaml_io import load_yaml
from concordant.pipeline.plan import check, read_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PIPELINES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_taken_with_all_its_settings(name, tmp_path):
    mapping = load_yaml(EXAMPLES / name)
    needs_data = "path" not in (mapping.get("data") or {})
    stages = read_plan(mapping, name, [("data", ["pairs.jsonl"])] if needs_data else [])
    check(stages, tmp_path)
    assert len(stages) > 2

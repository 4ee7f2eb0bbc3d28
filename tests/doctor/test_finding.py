"""A finding survives its way through events.jsonl."""

import json

from concordant.doctor.finding import Finding, at_least


def test_a_finding_read_back_from_its_event_is_the_same() -> None:
    finding = Finding("kl_negative", "error", "KL is -3.1", "cause", "cure", 12, {"kl": -3.1})
    event = json.loads(json.dumps(finding.as_event()))
    assert Finding.from_event(event) == finding
    assert event["page"] == "doctor/kl_negative/"


def test_severities_are_ordered() -> None:
    assert at_least("error", "warning") and at_least("warning", "warning") and not at_least("info", "warning")

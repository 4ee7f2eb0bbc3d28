from tests.report_answers import answers  # noqa: F401 (a fixture)

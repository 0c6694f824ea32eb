"""What the tests of damaged and of malicious files share."""

from sb3_trpo_ext.doctor.run import Run

GARBAGE = bytes(range(256)) * 40


def codes(run: Run) -> dict[str, str | None]:
    """Findings about files."""
    return {finding.file: finding.code for finding in run.findings if finding.file is not None}  # type: ignore[misc]

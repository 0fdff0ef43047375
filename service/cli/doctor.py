"""`reco doctor`: is everything here that a run needs, and if not, what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import output


def doctor(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL|SPEC]",
            help="Storage whose rights are tried out (s3://bucket/prefix or a folder), or a spec whose plan is made.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look over this machine, Ray, MLflow and the storage, and say what to do about what is missing.

    With a URL, one small object is written there and deleted again. With a spec, its data is opened and its steps and
    memory are worked out. Secrets are never printed.
    Exit code 0 where nothing is wrong (✗), else 1.

    Examples:
    - `reco doctor`

    - `reco doctor s3://bucket/prefix`

    - `reco doctor run.yaml`
    """
    from service.cli.checks import examine

    findings = []
    for finding in examine(url):
        findings.append(finding)
        if as_json:
            continue
        output.say(f"{finding.mark} {finding.subject:<12} {finding.found}")
        if finding.advice:
            output.say(f"  {'':<12} → {finding.advice}")
    wrong = sum(each.mark == "✗" for each in findings)
    if as_json:
        output.emit({"ok": not wrong, "findings": [each.as_dict() for each in findings]})
    elif wrong:
        output.fail(f"{wrong} of {len(findings)} checks failed")
    raise typer.Exit(1 if wrong else 0)

"""JUnit XML, which every CI service can show: a test suite for each file, a test case for each rule.

What fails the gate is a failure. Warnings that don't fail it pass, with what was found as the output of the test: a
failure would contradict the exit code, and "skipped" would say that nothing was checked.
"""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.gate.finding import Finding
from pipeline.gate.report import FileReport, Report
from pipeline.gate.reports.plain_text import finding_line, sentence
from pipeline.gate.rules import ABOUT, Rule, Severity
from schemas.terminal import CI_COMMAND, counted

MAX_EXAMPLES = 20
"""Of one rule in one file."""
NAME = "dpo validate"
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""


def render(report: Report, fail_on: Severity) -> str:
    """Write the report as XML, in ASCII."""
    examples: dict[tuple[str, Rule], list[Finding]] = {}
    for finding in report.findings:
        examples.setdefault((finding.path, finding.rule), []).append(finding)
    root = Element("testsuites", name=NAME)
    for file in report.files:
        _add_file(root, file, examples, report, fail_on)
    if report.unreadable:
        suite = SubElement(root, "testsuite", name="unreadable files")
        for text in report.unreadable:
            case = SubElement(suite, "testcase", classname="unreadable files", name=_legal(text))
            SubElement(case, "error", message=_legal(text), type="unreadable")
    for suite in root:
        _count(suite, suite)
    _count(root, *root)
    indent(root)
    xml = tostring(root, encoding="us-ascii", xml_declaration=True).decode("ascii")
    return CI_COMMAND.sub("#&#35;", xml) + "\n"


def _add_file(
    root: Element,
    file: FileReport,
    examples: dict[tuple[str, Rule], list[Finding]],
    report: Report,
    fail_on: Severity,
) -> None:
    path = _legal(file.path)
    suite = SubElement(root, "testsuite", name=path)
    for rule in (rule for rule in Rule if file.counts.get(rule)):
        case = SubElement(suite, "testcase", classname=path, name=rule, file=path)
        severity, number = report.severities[rule], file.counts[rule]
        shown = examples.get((file.path, rule), [])[:MAX_EXAMPLES]
        lines = [_legal(finding_line(finding, severity)) for finding in shown]
        if number > len(shown):
            lines.append(f"… and {counted(number - len(shown), 'more finding')}")
        lines.append(f"{sentence(ABOUT[rule].finds)} {ABOUT[rule].why}")
        if severity is Severity.ERROR or fail_on is Severity.WARNING:
            message = f"{counted(number, severity)}: {ABOUT[rule].finds}"
            result = SubElement(case, "failure", message=message, type=severity)
        else:
            result = SubElement(case, "system-out")
        result.text = "\n".join(lines)
    if not len(suite):
        SubElement(suite, "testcase", classname=path, name="all rules", file=path)


def _count(to: Element, *suites: Element) -> None:
    """Note on an element how many test cases there are in the suites, and how they ended."""
    for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        to.set(key, str(sum(len(list(suite.iter(tag))) for suite in suites)))


def _legal(text: str) -> str:
    return NO_XML.sub("\ufffd", text)

#!/usr/bin/env python3
"""Counts test cases of one `bazel test` run: test_counts.py EVENTS BAZEL_STATUS.

EVENTS is what --build_event_json_file wrote. gtest's XML gives the cases; a test that writes none (a script) is one case;
a target that did not build, timed out or crashed, or that an interrupted run never came to, is a failed one (one that
--test_tag_filters left out is not). Of several attempts (--flaky_test_attempts) the last one counts; a target that
passed in the end is named in a line `flaky: LABEL`, and so is one whose XML says that it needed a second start
(the attribute `flaky` of the outermost element, from tests/nested/outer_machine.py). The last line is
`N passed, N failed, N skipped`.
"""
import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def fail(self, name):
        self.failed += 1
        self.failures.append(name)

    def add_result(self, label, status, xml_path):
        """One run of one target (or shard): its cases, and one failure more when only the run as a whole failed. Returns
        whether the XML says that it was flaky."""
        failed_before = self.failed
        cases, flaky = [], False
        try:
            if xml_path:
                root = ElementTree.parse(xml_path).getroot()
                cases, flaky = list(root.iter("testcase")), root.get("flaky") is not None
        except (OSError, ElementTree.ParseError):
            pass
        for case in cases:
            name = " ".join(filter(None, [label, case.get("classname"), case.get("name")]))
            if case.find("failure") is not None or case.find("error") is not None:
                self.fail(name)
            elif case.find("skipped") is not None or case.get("result") == "skipped" or case.get("status") == "notrun":
                self.skipped += 1
            elif status == "PASSED" or len(cases) > 1:
                self.passed += 1
        if status != "PASSED" and self.failed == failed_before:
            self.fail(f"{label} ({status})")
        if status == "PASSED" and not cases:
            self.passed += 1
        return flaky


def read_events(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def main():
    path, bazel_status = sys.argv[1], int(sys.argv[2])
    unfinished, results, broken, tripped = set(), {}, [], set()
    for event in read_events(path):
        identity = event["id"]
        if "targetConfigured" in identity and "configured" in event:
            if event["configured"].get("targetKind", "").endswith("_test rule"):
                unfinished.add(identity["targetConfigured"]["label"])
        elif "testResult" in identity and "testResult" in event:
            key = identity["testResult"]
            outputs = {o["name"]: o.get("uri", "") for o in event["testResult"].get("testActionOutput", [])}
            xml = urllib.parse.unquote(urllib.parse.urlparse(outputs.get("test.xml", "")).path)
            # Attempts of one shard come in order: the last one counts.
            shard = (key["label"], key.get("run", 1), key.get("shard", 1))
            if shard in results and results[shard][0] != "PASSED":
                tripped.add(key["label"])
            status = event["testResult"]["status"]
            if status == "FLAKY":
                # The cached result of a run whose last attempt passed.
                tripped.add(key["label"])
                status = "PASSED"
            results[shard] = (status, xml)
        elif "targetCompleted" in identity:
            aborted = event.get("aborted", {}).get("reason", "")
            if (aborted and aborted != "SKIPPED") or ("completed" in event and not event["completed"].get("success")):
                broken.append(identity["targetCompleted"]["label"])
            elif not event.get("children"):  # built, and not among those to run
                unfinished.discard(identity["targetCompleted"]["label"])
        elif "pattern" in identity and "aborted" in event:
            broken.append(" ".join(identity["pattern"].get("pattern", [])))

    counts = Counts()
    for (label, _, _), (status, xml) in sorted(results.items()):
        if counts.add_result(label, status, xml):
            tripped.add(label)
    tested = {label for label, _, _ in results}
    for label in sorted(unfinished.union(broken)):
        if label not in tested:
            counts.fail(f"{label} (did not build or did not run)")
    # 4 is "no tests": with filters that is no failure. Any other status has to show in the counts.
    if bazel_status not in (0, 4) and counts.failed == 0:
        counts.fail(f"bazel ended with status {bazel_status}")

    failed_targets = {label for (label, _, _), (status, _) in results.items() if status != "PASSED"}
    for label in sorted(tripped - failed_targets):
        print(f"flaky: {label}")
    for name in counts.failures:
        print(f"failed: {name}")
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())

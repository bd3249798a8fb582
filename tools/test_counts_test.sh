#!/bin/bash
# What tools/test_counts.py makes of the events of a run in which one target passed, one passed at its second attempt, one
# did so in a run before (its result is cached), one needed a second start of its machine (and one that did failed), one
# failed twice, one did not build, one was filtered out and one was never come to.
set -euo pipefail

events="$TEST_TMPDIR/events"
configured() {
  printf '{"id": {"targetConfigured": {"label": "%s"}}, "configured": {"targetKind": "cc_test rule"}}\n' "$1"
}
completed() {
  printf '{"id": {"targetCompleted": {"label": "%s"}}, "children": [%s], "completed": {"success": %s}}\n' "$@"
}
result() {
  printf '{"id": {"testResult": {"label": "%s", "run": 1, "attempt": %s}}, "testResult": {"status": "%s"}}\n' "$@"
}
# with_xml LABEL STATUS RESULT-OF-THE-CASE: its XML tells of a second start.
with_xml() {
  local xml="$TEST_TMPDIR/${1#//a:}.xml"
  printf '<testsuites flaky="start 2"><testsuite name="s"><testcase classname="s" name="c">%s</testcase></testsuite></testsuites>' "$3" >"$xml"
  printf '{"id": {"testResult": {"label": "%s"}}, "testResult": {"status": "%s", "testActionOutput": [{"name": "test.xml", "uri": "file://%s"}]}}\n' \
    "$1" "$2" "$xml"
}
{
  for label in //a:good //a:flaky //a:flaky_and_cached //a:bad //a:broken //a:filtered //a:waiting; do configured "$label"; done
  completed //a:good '{"testSummary": {}}' true
  completed //a:broken '' false
  completed //a:filtered '' true
  result //a:good 1 PASSED
  result //a:flaky 1 FAILED
  result //a:flaky 2 PASSED
  result //a:flaky_and_cached 2 FLAKY
  result //a:bad 1 FAILED
  result //a:bad 2 TIMEOUT
  with_xml //a:second_start PASSED ''
  with_xml //a:second_start_failed FAILED '<failure/>'
} >"$events"
expected='flaky: //a:flaky
flaky: //a:flaky_and_cached
flaky: //a:second_start
failed: //a:bad (TIMEOUT)
failed: //a:second_start_failed s c
failed: //a:broken (did not build or did not run)
failed: //a:waiting (did not build or did not run)
4 passed, 4 failed, 0 skipped'
if found=$(python3 tools/test_counts.py "$events" 3); then
  echo "a run with failures was taken for a good one"
  exit 1
fi
if [[ "$found" != "$expected" ]]; then
  diff <(printf '%s\n' "$expected") <(printf '%s\n' "$found")
  exit 1
fi

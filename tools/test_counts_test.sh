#!/bin/bash
# What tools/test_counts.py makes of the events of a run in which one target passed, one passed at its second attempt,
# one failed twice, one did not build, one was filtered out and one was never come to.
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
{
  for label in //a:good //a:flaky //a:bad //a:broken //a:filtered //a:waiting; do configured "$label"; done
  completed //a:good '{"testSummary": {}}' true
  completed //a:broken '' false
  completed //a:filtered '' true
  result //a:good 1 PASSED
  result //a:flaky 1 FAILED
  result //a:flaky 2 PASSED
  result //a:bad 1 FAILED
  result //a:bad 2 TIMEOUT
} >"$events"
expected='flaky: //a:flaky
failed: //a:bad (TIMEOUT)
failed: //a:broken (did not build or did not run)
failed: //a:waiting (did not build or did not run)
2 passed, 3 failed, 0 skipped'
if found=$(python3 tools/test_counts.py "$events" 3); then
  echo "a run with failures was taken for a good one"
  exit 1
fi
if [[ "$found" != "$expected" ]]; then
  diff <(printf '%s\n' "$expected") <(printf '%s\n' "$found")
  exit 1
fi

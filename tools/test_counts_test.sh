#!/bin/bash
# What tools/test_counts.py makes of the events of a run in which one target passed, one passed at its second attempt,
# one failed twice and one did not build.
set -euo pipefail

events="$TEST_TMPDIR/events"
configured() {
  printf '{"id": {"targetConfigured": {"label": "%s"}}, "configured": {"targetKind": "cc_test rule"}}\n' "$1"
}
result() {
  printf '{"id": {"testResult": {"label": "%s", "run": 1, "attempt": %s}}, "testResult": {"status": "%s"}}\n' "$@"
}
{
  for label in //a:good //a:flaky //a:bad //a:broken; do configured "$label"; done
  result //a:good 1 PASSED
  result //a:flaky 1 FAILED
  result //a:flaky 2 PASSED
  result //a:bad 1 FAILED
  result //a:bad 2 TIMEOUT
} >"$events"
expected='flaky: //a:flaky
failed: //a:bad (TIMEOUT)
failed: //a:broken (did not build or did not run)
2 passed, 2 failed, 0 skipped'
if found=$(python3 tools/test_counts.py "$events" 3); then
  echo "a run with failures was taken for a good one"
  exit 1
fi
if [[ "$found" != "$expected" ]]; then
  diff <(printf '%s\n' "$expected") <(printf '%s\n' "$found")
  exit 1
fi

#!/bin/bash
# What a nested test tells when something goes wrong: each kind of failure once, all in one boot. Arguments: the driver
# and its arguments.
set -u
artifacts=$(mktemp -d "$TEST_TMPDIR/artifacts.XXXXXX")
log="$artifacts/log" xml="$artifacts/test.xml"
XML_OUTPUT_FILE="$xml" TEST_UNDECLARED_OUTPUTS_DIR="$artifacts" "$@" >"$log" 2>&1
status=$?

failed=0
expect() {
  grep -qF -- "$1" "$2" && return
  echo "missing: $1"
  failed=1
}
[[ $status == 1 ]] || { echo "the driver ended with status $status, not 1" && failed=1; }
expect 'test| fails: no end of line follows' "$log"
expect 'FAILED: fails.sh: exit status 3' "$log"
expect 'FAILED: leaves_process.sh: it left processes behind' "$log"
expect 'the deadline of ' "$log"
expect 'running: hangs.sh' "$log"
expect 'test| hangs: here I am' "$log"
expect 'FAILED: hangs.sh: the deadline passed while it ran' "$log"
expect "inner hangs.sh/guest.log| a guest's console" "$log"
expect 'outer| ' "$log"
[[ $(grep -o '<testcase ' "$xml" | wc -l) == 3 ]] || { echo "not three cases: $(<"$xml")" && failed=1; }
[[ $(grep -o '<failure ' "$xml" | wc -l) == 3 ]] || { echo "not three failures: $(<"$xml")" && failed=1; }
((failed == 0)) || cat "$log"
exit "$failed"

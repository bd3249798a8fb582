#!/bin/bash
# What a nested test tells when something goes wrong: each kind of failure once, and the outer machine itself standing
# still. Arguments: the driver and its arguments, which name no tests.
set -u
driver=("$@")
failed=0

# run NAME EXPECTED-STATUS ARGUMENT...: one boot of the outer machine (two, if it stands still); its output is in $log.
run() {
  local name=$1 expected=$2 status
  shift 2
  artifacts=$(mktemp -d "$TEST_TMPDIR/$name.XXXXXX")
  log="$artifacts/log" xml="$artifacts/test.xml"
  echo "== $name"
  XML_OUTPUT_FILE="$xml" TEST_UNDECLARED_OUTPUTS_DIR="$artifacts" "${driver[@]}" "$@" >"$log" 2>&1
  status=$?
  was_right=true
  [[ $status == "$expected" ]] || wrong "the driver ended with status $status, not $expected"
}
wrong() {
  echo "$1"
  ! $was_right || cat "$log"
  was_right=false failed=1
}
expect() { grep -qF -- "$1" "${2-$log}" || wrong "missing: $1"; }
expect_count() {
  local found
  found=$(grep -oF -- "$2" "${3-$log}" | wc -l)
  [[ $found == "$1" ]] || wrong "not $1 times, but $found: $2"
}

run programs 1 --test=tests/nested/testdata/{leaves_process,fails,hangs}.sh --deadline=20
expect 'test| fails: no end of line follows'
expect 'FAILED: fails.sh: exit status 3'
expect 'FAILED: leaves_process.sh: it left processes behind'
expect 'the deadline of '
expect 'running: hangs.sh'
expect 'test| hangs: here I am'
expect 'FAILED: hangs.sh: the deadline passed while it ran'
expect "inner hangs.sh/guest.log| a guest's console"
expect 'outer| '
expect_count 3 '<testcase ' "$xml"
expect_count 3 '<failure ' "$xml"
expect_count 0 'flaky=' "$xml"

# A kernel that the set-up could not fetch.
mkdir -p "$TEST_TMPDIR/kernel"
: >"$TEST_TMPDIR/kernel/vmlinuz"
echo 'no such kernel' >"$TEST_TMPDIR/kernel/version"
run no_kernel 0 --test=tests/nested/testdata/{fails,passes}.sh --kernel="$TEST_TMPDIR/kernel/vmlinuz"
expect 'SKIPPED: fails.sh: no such kernel'
expect_count 2 '<skipped message="no such kernel"' "$xml"
expect_count 0 'test| '

# The machine makes no progress: a second start has the tests that have not ended.
run stands_still 0 --test=tests/nested/testdata/{passes,stands_still}.sh --silence=5
expect_count 1 'the outer machine stands still: no heartbeat for '
expect_count 1 'FLAKY: '
expect 'running: stands_still.sh'
expect_count 1 'test| passes: in start 1'
expect_count 0 'test| passes: in start 2'
expect_count 2 '<testcase ' "$xml"
expect_count 0 '<failure ' "$xml"
expect '<testsuites flaky=' "$xml"
expect 'VM status: running' "$artifacts/standstill.1.txt"

run stands_still_twice 1 --test=tests/nested/testdata/{stands_still,passes}.sh --silence=5 --env='STANDS_STILL=always, here'
expect_count 2 'the outer machine stands still: no heartbeat for '
expect 'FAILED: stands_still.sh: the outer machine stood still (start 2 of 2) while it ran'
expect 'FAILED: passes.sh: the outer machine stood still (start 2 of 2) before it ran'
expect_count 2 '<failure ' "$xml"

# Skipped cases stay so, and a test finds what Bazel would give it.
run results 0 --test=tests/nested/testdata/skips.sh --env=SETTING="it's here"
expect "test| skips: it's here, tests/nested/testdata/skips.sh, ferrite"
expect_count 1 '<skipped ' "$xml"
expect_count 1 '<testcase ' "$xml"

# For a person: three lines, the first of them the program's own, and no log.
TMPDIR=$TEST_TMPDIR run person 1 --plain --advice='Ask someone.' --test=tests/nested/testdata/fails.sh
expect 'fails: no end of line follows'
expect 'Ask someone.'
expect_count 0 '| '
[[ $(wc -l <"$log") == 3 ]] || wrong "not three lines"
kept=$(sed -n 's/.* are in //p' "$log")
expect 'outer| ' "$kept"

TMPDIR=$TEST_TMPDIR run person_standstill 1 --plain --advice='Ask someone.' --silence=5 --starts=1 \
  --test=tests/nested/testdata/stands_still.sh
expect 'stands_still.sh failed: the outer machine stood still (start 1 of 1) while it ran'
[[ $(wc -l <"$log") == 4 ]] || wrong "not three lines and the program's one"
exit "$failed"

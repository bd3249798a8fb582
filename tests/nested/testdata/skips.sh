#!/bin/sh
# A test with XML of its own, in which a case is skipped.
echo "skips: $SETTING, $TEST_BINARY, $TEST_WORKSPACE"
[ -d "$TEST_TMPDIR" ] && [ -d "$TEST_UNDECLARED_OUTPUTS_DIR" ] && [ -e "$TEST_SRCDIR/$TEST_WORKSPACE/$TEST_BINARY" ] || exit 1
cat >"$XML_OUTPUT_FILE" <<'XML'
<testsuites><testsuite name="Suite"><testcase name="Case" classname="Suite" result="skipped"><skipped message=""/></testcase></testsuite></testsuites>
XML

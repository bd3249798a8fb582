#!/bin/sh
# Says something, leaves the log of a guest, and never ends.
echo "hangs: here I am"
echo "a guest's console" >"$TEST_UNDECLARED_OUTPUTS_DIR/guest.log"
sleep 100000

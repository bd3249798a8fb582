#!/bin/bash
# What the demo says when something goes wrong, on a host: three lines, and no log. A script stands in for `ferrite`.
set -euo pipefail
demo="$PWD/tests/nested/demo.sh"
here=$(mktemp -d "$TEST_TMPDIR/demo.XXXXXX")
mkdir -p "$here"/{vmm/app,external/debian_kernel,tests/nested}
touch "$here"/external/debian_kernel/vmlinuz "$here"/tests/nested/{guest.cpio.gz,disk.img}
cd "$here"

# expect_failure WHAT: the demo ends with an error and these last lines.
expect_failure() {
  local kept
  if TMPDIR="$here" env -u TEST_UNDECLARED_OUTPUTS_DIR "$demo" >demo.log 2>&1; then
    echo "it did not fail: $(<demo.log)"
    exit 1
  fi
  kept=$(sed -n 's/^demo: the console .* are in //p' demo.log)
  if [[ "$(tail -n 3 demo.log | head -n 1)" != "$1" || ! -f "$kept/console.log" ||
    "$(tail -n 1 demo.log)" != 'demo: try it again'* || $(grep -c '^demo: ' demo.log) != 3 ]]; then
    echo "not what was expected: $1"
    cat demo.log
    exit 1
  fi
}

cat >vmm/app/ferrite <<'FERRITE'
#!/bin/sh
echo "[    0.000000] Linux version"
echo "ferrite: no /dev/kvm here" >&2
exit 1
FERRITE
chmod +x vmm/app/ferrite
expect_failure "demo: failed: no 'guest: ready' from the guest, whose monitor ended: ferrite: no /dev/kvm here (in the part: A microVM with two vCPUs; some lines of its console, as they come:)"

# The guest is there, and a command fails; then the guest goes away while the demo waits for its answer.
cat >vmm/app/ferrite <<'FERRITE'
#!/bin/sh
case "$1" in
  run) echo "guest: ready" && read -r _ ;;
  info) exit 4 ;;
esac
FERRITE
expect_failure "demo: failed: a command ended with status 4 (in the part: From a second command:)"
sed -i '/info/d' vmm/app/ferrite
expect_failure "demo: failed: no 'guest: status' from the guest, whose monitor ended:  (in the part: The guest counts; paused it stands still, resumed it goes on.)"

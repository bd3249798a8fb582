#!/bin/sh
# The demo (./dev demo): a Linux guest boots in a microVM, is paused, resumed and ballooned from a second command, and
# moves live to another monitor and back.
# Runs in the runfiles directory, on a host whose KVM runs Linux or in the outer machine.
set -eu
PATH="$PWD/vmm/app:$PATH"
kernel="$PWD/external/debian_kernel/vmlinuz" initrd="$PWD/tests/nested/guest.cpio.gz" disk="$PWD/tests/nested/disk.img"
work=$(mktemp -d)
monitors=
part="the start"
# Three lines when something went wrong: what, where the logs are, what to do. In the outer machine its driver has the
# last two (outer_machine.py).
tell_failure() {
  echo
  echo "demo: failed: $(cat "$work/why" 2>/dev/null || echo "a command ended with status $1") (in the part: $part)"
  logs=${TEST_UNDECLARED_OUTPUTS_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/ferrite-demo-XXXXXX")}
  cp "$work"/*.log "$logs" 2>/dev/null || true
  [ -z "${OUTER_START-}" ] || return 0
  echo "demo: the console of its guest and the logs of its monitors are in $logs"
  echo "demo: try it again on a quieter host; if it fails again, \`bazel-bin/vmm/app/ferrite doctor\` tells what this host lacks"
}
cleanup() {
  status=$?
  [ "$status" = 0 ] || tell_failure "$status"
  # shellcheck disable=SC2086 # a list
  [ -z "$monitors" ] || kill $monitors 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
# No links: `receive --boot-from` follows none.
cat "$kernel" >vmlinuz
cat "$initrd" >guest.cpio.gz
mkfifo keyboard keyboard1 keyboard2 screen
cat "$disk" >data.img
[ "$(id -u)" = 0 ] || export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$work}"

say() {
  part=$*
  printf '\n# %s\n' "$part"
}
show() {
  printf '$ %s\n' "$*"
  "$@"
}
# As `show`, to a pipe: plain lines in place of one that changes.
show_plain() {
  printf '$ %s | cat\n' "$*"
  "$@" >plain.log || { cat plain.log && exit 1; }
  cat plain.log
}
# The first two lines of it.
show_top() {
  printf '$ %s | head -n 2\n' "$*"
  "$@" | head -n 2
}
# wait_for COUNT PATTERN: until the guest has printed that many lines like it.
wait_for() {
  tries=3000
  while [ "$(grep -c "$2" console.log)" -lt "$1" ]; do
    if [ -e ended ]; then
      echo "no '$2' from the guest, whose monitor ended: $(tail -n 1 monitor.log)" >why
    elif [ $((tries -= 1)) = 0 ]; then
      echo "no '$2' from the guest in 5 minutes" >why
    fi
    [ ! -e why ] || exit 1
    sleep 0.1
  done
}
# Has the guest run a line of shell, and prints the last line of its answer.
in_guest() {
  answers=$(grep -c 'guest: status' console.log || true)
  echo "$1" >&3
  wait_for $((answers + 1)) 'guest: status'
  grep -v '^tick' console.log | grep -B 1 'guest: status' | tail -n 2 | head -n 1
}
memory() {
  available=$(in_guest "free -m | awk '/Mem:/ {print \$2 \" MiB, of it \" \$7 \" available\"}'")
  echo "guest: $available"
  echo "host:  $(ferrite info demo | sed -n 's/^memory *//p')"
}
ticks() { grep -c '^tick' console.log || true; }

say "A microVM with two vCPUs; some lines of its console, as they come:"
set -- ferrite run --name demo --kernel vmlinuz --initrd guest.cpio.gz --cmdline console=ttyS0 \
  --mem 192M --cpus 2 --disk path=data.img --balloon 0 --rng
printf '$ %s\n' "$*"
: >console.log
"$@" <keyboard >screen 2>monitor.log &
monitors=$!
exec 3>keyboard
# No filter stands between that would hold lines back until it has many.
show_screen() {
  while IFS= read -r line; do
    line=${line%"$(printf '\r')"}
    printf '%s\n' "$line" >>console.log
    case "$line" in
      *'Linux version'* | *'Hypervisor detected'* | *Memory:* | *'Brought up'* | *'clocksource: Switched'* | *'Run /init'* | \
        'guest: ready') printf '  %.110s\n' "$line" ;;
    esac
  done
}
(show_screen <screen && { : >ended; } 2>/dev/null) &
wait_for 1 'guest: ready'

say "From a second command:"
show ferrite ps
show ferrite info demo

say "The guest counts; paused it stands still, resumed it goes on."
in_guest 'while usleep 200000; do echo tick; done & ticker=$!; echo started' >/dev/null
wait_for 3 '^tick'
show ferrite pause demo
sleep 1 # what it wrote before is on its way
before=$(ticks)
sleep 2
echo "it ticked $before times until then, and $(ticks) times two seconds later"
show ferrite resume demo
wait_for $((before + 3)) '^tick'
echo "and goes on: $(ticks) times"
in_guest "kill \$ticker; echo stopped" >/dev/null

say "The guest fills 64 MiB and frees them; a balloon gives 64 MiB to the host, and gives them back."
in_guest "dd if=/dev/zero of=/tmp/file bs=1M count=64 2>/dev/null; rm /tmp/file; echo done" >/dev/null
memory
show_top ferrite balloon demo 64M --wait
memory
show_top ferrite balloon demo 0 --wait
memory

# move RECEIVE-OPTIONS NUMBER MOVE-OPTION...: to a monitor of its own, where the screen goes on. RECEIVE-OPTIONS find the
# guest from then on; `here` has those that find it now.
here=
move() {
  there=$1 number=$2
  shift 2
  printf '$ ferrite receive --name demo --listen tcp:127.0.0.1:0 --disk-from . --boot-from .%s &\n' "$there"
  # shellcheck disable=SC2086 # none, or --run-dir and its directory
  ferrite receive --name demo --listen tcp:127.0.0.1:0 --disk-from . --boot-from . $there <"keyboard$number" >screen 2>>monitor.log &
  monitors="$monitors $!"
  exec 4>"keyboard$number"
  wait_for "$number" 'demo.* waits at'
  grep 'demo.* waits at' console.log | tail -n 1
  # shellcheck disable=SC2046,SC2086
  show_plain ferrite move demo $(grep 'demo.* waits at' console.log | tail -n 1 | grep -o 'tcp:.*') "$@" $here
  exec 3>&4 4>&-
  here=$there
  wait_for $(($(ticks) + 3)) '^tick'
}
work_done() {
  work_is=$(in_guest "load $1 | sed 's/ longest_gap.*//'")
  echo "guest: $work_is"
}

say "It works: two threads write and check 32 MiB, another writes and re-reads files, and it ticks on its screen."
in_guest "mount /dev/vda /mnt; load run 32 2 /mnt >/dev/null & while usleep 100000; do echo tick; done & echo started" >/dev/null
in_guest "until load status 2>/dev/null | grep -q 'files=[1-9]'; do usleep 100000; done" >/dev/null
work_done status

say "While it does, it moves to another monitor, which has a run directory of its own as another host would."
mkdir there
move " --run-dir there" 1
show ferrite ps
show ferrite ps --run-dir there
work_done status

say "And back by post-copy: it runs at once, and fetches its memory while it does. Its own checks have the last word."
move "" 2 --mode postcopy
work_done stop

say "The end."
show ferrite stop demo
# shellcheck disable=SC2086
wait $monitors || true
monitors=
show ferrite ps

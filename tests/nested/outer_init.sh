#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of the outer machine (outer_machine.py). ttyS0 is the console; ttyS1 carries the tests' output, and between
# its lines what this script tells the driver, marked by a byte 2; ttyS2 takes the artifacts home, a tar archive for each
# test; ttyS3 has a byte a second for as long as this machine makes progress.
# The driver's words come with the kernel's command line: OUTER_START (which start of the machine this is, from 1) and
# OUTER_DONE (how many of the tests ended in the one before).
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /run /artifacts
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
mkdir -p /etc
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo '127.0.0.1 localhost' >/etc/hosts
hostname outer
ip link set lo up
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
stty -F /dev/ttyS3 raw -echo

# The heartbeat starts no processes: `read` is a sleep.
mkfifo /run/silence
(
  exec 3<>/run/silence 4>/dev/ttyS3
  while :; do
    printf . >&4
    # shellcheck disable=SC3045 # busybox has -t
    read -r -t 1 _ <&3
  done
) &
heartbeat=$!
renice -n -20 -p "$heartbeat" >/dev/null

while read -r module; do
  insmod "$module" || echo "outer: insmod $module failed"
done </nested/modules

[ ! -e /nested/setup ] || sh /nested/setup || echo "outer: its setup failed"

cd "$(cat /nested/directory)" || exit 1
# As Bazel has it.
export TEST_SRCDIR=/runfiles RUNFILES_DIR=/runfiles TEST_WORKSPACE="${PWD##*/}" TZ=UTC USER=root LOGNAME=root
export GTEST_COLOR=no PATH="$PATH:$PWD/vmm/app" OUTER_START OUTER_HEARTBEAT=$heartbeat
# What the driver adds: GTEST_FILTER and the like.
# shellcheck source=/dev/null
. /nested/environment

if [ -e /nested/shell ]; then
  cat /nested/shell
  stty -F /dev/console sane
  setsid cttyhack sh
  poweroff -f
fi

tell() { printf '\002%s\n' "$*" >/dev/ttyS1; }

# What a test left goes home. One at a time.
send() {
  until mkdir /tmp/sending 2>/dev/null; do usleep 50000; done
  tar -c -C /artifacts . >/dev/ttyS2
}

# The end of this machine: all tests are done, or the deadline has come.
finish() {
  send
  tell finished
  poweroff -f
}

# Programs that run (not the kernel's threads, nor who has ended), by process id.
programs() {
  for process in /proc/[0-9]*; do
    [ -e "$process/exe" ] && printf '%s ' "${process#/proc/}"
  done
}

# What a test started ends with it. Someone who is about to end gets some seconds for it.
kill_what_is_left() {
  tries=50
  while :; do
    left=
    for process in /proc/[0-9]*; do
      case " $known " in *" ${process#/proc/} "*) continue ;; esac
      [ -e "$process/exe" ] && left="$left ${process#/proc/}"
    done
    [ -z "$left" ] && return
    [ $((tries -= 1)) -gt 0 ] || break
    usleep 100000
  done
  for process in $left; do
    tell "left $1 $process $(tr '\000' ' ' <"/proc/$process/cmdline")"
    kill -KILL "$process"
  done
}

# The driver's only word to us is that the deadline has come.
(
  read -r _ </dev/ttyS1
  for process in $(programs); do
    tell "process $process $(tr '\000' ' ' <"/proc/$process/cmdline")"
  done
  finish
) &
known="1 $heartbeat $!"

tail -n +$((OUTER_DONE + 1)) /nested/tests >/run/tests
while read -r name program; do
  mkdir -p "/artifacts/$name" "/tmp/$name"
  tell "begin $name"
  TEST_TMPDIR="/tmp/$name" TEST_UNDECLARED_OUTPUTS_DIR="/artifacts/$name" XML_OUTPUT_FILE="/artifacts/$name/test.xml" \
    TEST_BINARY="${program#"$PWD/"}" setsid "$program" </dev/null >/dev/ttyS1 2>&1
  status=$?
  kill_what_is_left "$name"
  send # before its end is told: what has ended needs no second start of the machine
  rm -rf "/artifacts/$name" "/tmp/$name"
  rmdir /tmp/sending
  tell "end $name $status"
done </run/tests
finish

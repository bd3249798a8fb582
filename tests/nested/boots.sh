#!/bin/sh
# Boots a Linux guest of two vCPUs again and again, and tells boots.py how long each boot took, by this machine's clock.
keyboard="$TEST_TMPDIR/keyboard" screen="$TEST_TMPDIR/screen"
mkfifo "$keyboard"
: >"$screen"
uptime_now() { cut -d ' ' -f 1 /proc/uptime; }
while :; do
  exec 3<>"$keyboard"
  began=$(uptime_now)
  ferrite run --name guest --kernel external/debian_kernel/vmlinuz --initrd tests/nested/guest.cpio.gz \
    --cmdline console=ttyS0 --mem 128M --cpus 2 <"$keyboard" >"$screen" 2>&1 &
  guest=$!
  until grep -q 'guest: ready' "$screen"; do
    kill -0 "$guest" || break
    usleep 100000
  done
  ready=$(uptime_now)
  # Both vCPUs work, and then the guest ends.
  # shellcheck disable=SC2016 # the guest's
  printf 'for cpu in 1 2; do taskset $cpu sh -c "echo works"; done\npoweroff -f\n' >"$keyboard"
  wait "$guest"
  echo "boot $began $ready $(uptime_now) status $? $(grep -c '^works' "$screen")"
done

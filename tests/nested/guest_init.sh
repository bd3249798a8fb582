#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of the Linux guest of the tests and the demo: loads the virtio drivers, says so, then runs each line that
# comes in on the console and answers with its output and `guest: status N`.
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /mnt /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/tmp
echo "guest: init"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
hostname guest
echo 3 >/proc/sys/kernel/printk
while read -r module; do
  insmod "/modules/$module" || echo "guest: insmod $module failed"
done </modules/order
# Bytes as they are: no echo, no line editing, no carriage returns.
stty -F /dev/console -echo -onlcr

# guest.shell on the command line: a person's shell, not a test's.
if grep -qw guest.shell /proc/cmdline; then
  stty -F /dev/console echo onlcr
  echo "guest: Linux $(uname -r), $(nproc) CPUs, $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MiB"
  setsid cttyhack sh -l
  poweroff -f
fi

echo "guest: ready"
while read -r line; do
  eval "$line"
  echo "guest: status $?"
done
echo "guest: the console was closed"
poweroff -f

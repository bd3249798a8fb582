#!/bin/busybox sh
# shellcheck shell=dash
# Makes the RDMA device of an outer machine: rxe on a dummy interface, since rxe on lo knows no connection manager. With
# an mtu of 9000 RDMA's is 4096 and not 1024. busybox has an `ip` of its own, and takes it before PATH.
set -e
/usr/bin/ip link set dummy0 mtu 9000
/usr/bin/ip addr add 10.9.0.1/24 dev dummy0
/usr/bin/ip link set dummy0 up
/usr/bin/rdma link add rxe0 type rxe netdev dummy0

#!/bin/busybox sh
# shellcheck shell=dash
# `ferrite doctor` names the RDMA device.
said=$(vmm/app/ferrite doctor 2>&1)
echo "$said"
echo "$said" | grep -q "rxe0"

#!/usr/bin/env python3
"""Prints whether tests can run on this host's KVM, in half a sentence; ends with 0 when they can, else with 1.

KVM_GET_API_VERSION and KVM_CREATE_VM (the kernel's Documentation/virt/kvm/api.rst) have to work, since a device node
alone says little: it may be another file, belong to somebody else, or be of a kernel that cannot virtualise.
"""
import fcntl
import os
import sys

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01


def trouble(path):
    """What stands against running tests on `path`, or None."""
    try:
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        version = fcntl.ioctl(device, KVM_GET_API_VERSION)
        if version != 12:
            return f"{path} speaks version {version} of KVM's API, not 12"
        os.close(fcntl.ioctl(device, KVM_CREATE_VM))
    except OSError as error:
        return f"{path} makes no machine: {error.strerror}"
    finally:
        os.close(device)
    return None


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "/dev/kvm"
    found = trouble(path)
    print(found or f"{path} works")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

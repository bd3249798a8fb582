@0xb1d6c09a7e3f4852;
# What a machine is made of: what the source of a move sends before a byte of RAM, so that the destination can build the
# same machine or say why it cannot.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("ferrite::state");

struct MachineDescription {
  name @0 :Text;
  cpus @1 :UInt32;
  memory @2 :Memory;
  regions @3 :List(Region);
  devices @4 :List(DeviceSummary);
  disks @5 :List(Disk);
  cpuid @6 :List(CpuidLeaf);      # what vCPU 0 was given; the others differ in their ids only
  tscKhz @7 :UInt32;              # 0 when unknown
  boot @8 :Boot;
  rebootOnReset @9 :Bool = true;
  stateVersion @10 :UInt32;       # of state.capnp's Machine
}

struct Memory {
  bytes @0 :UInt64;
  backing @1 :Text;               # as --memory-backing
  transparentHugePages @2 :Bool;
}

struct Region {
  name @0 :Text;
  base @1 :UInt64;                # guest-physical
  bytes @2 :UInt64;
  hostPageBytes @3 :UInt64;       # at the source
}

struct DeviceSummary {
  name @0 :Text;                  # "serial0", "virtio-blk:root"
  kind @1 :Text;                  # "serial", "virtio-blk"
  version @2 :UInt32;             # of its saved state
}

struct Disk {
  id @0 :Text;
  path @1 :Text;                  # at the source
  bytes @2 :UInt64;
  readOnly @3 :Bool;
}

struct CpuidLeaf {
  function @0 :UInt32;
  index @1 :UInt32;
  flags @2 :UInt32;
  eax @3 :UInt32;
  ebx @4 :UInt32;
  ecx @5 :UInt32;
  edx @6 :UInt32;
}

# For a reset after the move.
struct Boot {
  kernelPath @0 :Text;            # at the source
  initrdPath @1 :Text;
  commandLine @2 :Text;
  kernel @3 :BootFile;            # what is in it; looked at when the machine boots again on a reset
  initrd @4 :BootFile;
}

struct BootFile {
  bytes @0 :UInt64;
  sha256 @1 :Data;                # empty: not known, and the destination does not take the source's path
  problem @2 :Text;               # why it is not
}

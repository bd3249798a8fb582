@0xb1d6c09a7e3f4852;
# What a machine is made of: what the source of a move sends before a byte of RAM, so that the destination can build the
# same machine or say why it cannot. Where its memory lies is in the message that carries this
# (migration/protocol/stream.capnp).

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("ferrite::state");

struct MachineDescription {
  cpus @0 :UInt32;
  memory @1 :Memory;
  devices @2 :List(DeviceSummary);
  disks @3 :List(Disk);
  cpuid @4 :List(CpuidLeaf);      # what vCPU 0 was given; the others differ in their ids only
  tscKhz @5 :UInt32;              # 0 when unknown
  boot @6 :Boot;
  rebootOnReset @7 :Bool = true;
  stateVersion @8 :UInt32;        # of state.capnp's Machine
}

struct Memory {
  bytes @0 :UInt64;
  backing @1 :Text;               # as --memory-backing
  transparentHugePages @2 :Bool;
}

struct DeviceSummary {
  name @0 :Text;                  # "serial0", "virtio-blk:root"
  version @1 :UInt32;             # of its saved state
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

@0xd8f3a1c2b4e59607;
# The state of a stopped machine: what one monitor writes and another one loads, in a move or a snapshot.
#
# Every part has a version. A reader takes versions up to its own and refuses newer ones by name; a field is only ever
# added, with a default that means "as before", and its version raised where an older reader must not miss it.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("ferrite::state");

struct Machine {
  version @0 :UInt32;
  vcpus @1 :List(Vcpu);           # by index
  irqchip @2 :Irqchip;
  clock @3 :Clock;
  devices @4 :List(Device);
  paused @5 :Bool;                # its user had paused it: it arrives paused
  lostPages @6 :List(UInt64);     # guest-physical addresses of host pages that the hardware lost where this was written,
                                  # some of which may have come whole before; version 2
}

# One vCPU. Blobs are the kernel's own structures for x86-64, as KVM_GET_* returned them (linux/kvm.h); a blob of another
# length than the structure's is refused.
struct Vcpu {
  version @0 :UInt32;
  index @1 :UInt32;
  mpState @2 :UInt32;             # KVM_GET_MP_STATE
  regs @3 :Data;                  # struct kvm_regs
  sregs @4 :Data;                 # struct kvm_sregs
  xsave @5 :Data;                 # struct kvm_xsave, or the longer form of KVM_GET_XSAVE2
  xcrs @6 :Data;                  # struct kvm_xcrs
  debugRegs @7 :Data;             # struct kvm_debugregs
  lapic @8 :Data;                 # struct kvm_lapic_state
  events @9 :Data;                # struct kvm_vcpu_events
  msrs @10 :List(Msr);
  tscKhz @11 :UInt32;             # KVM_GET_TSC_KHZ, 0 when unknown
  cpuid @12 :List(CpuidEntry);    # KVM_SET_CPUID2, for the check at the destination
  tscOffset @13 :UInt64;          # KVM_VCPU_TSC_OFFSET where the kernel has it
  hasTscOffset @14 :Bool;
}

struct Msr {
  index @0 :UInt32;
  value @1 :UInt64;
}

struct CpuidEntry {
  function @0 :UInt32;
  index @1 :UInt32;
  flags @2 :UInt32;
  eax @3 :UInt32;
  ebx @4 :UInt32;
  ecx @5 :UInt32;
  edx @6 :UInt32;
}

struct Irqchip {
  version @0 :UInt32;
  picMaster @1 :Data;             # struct kvm_irqchip, KVM_IRQCHIP_PIC_MASTER
  picSlave @2 :Data;
  ioapic @3 :Data;
  pit @4 :Data;                   # struct kvm_pit_state2, with count_load_time as ns before the save
}

struct Clock {
  version @0 :UInt32;
  kvmClock @1 :Data;              # struct kvm_clock_data
}

struct Device {
  name @0 :Text;                  # as Device::name()
  version @1 :UInt32;             # of the kind below
  union {
    none @2 :Void;
    serial @3 :Serial;
    virtioMmio @4 :VirtioMmio;
    power @5 :Power;
  }
}

struct Serial {                   # 16550
  ier @0 :UInt8;
  iir @1 :UInt8;
  lcr @2 :UInt8;
  mcr @3 :UInt8;
  lsr @4 :UInt8;
  msr @5 :UInt8;
  scr @6 :UInt8;
  fcr @7 :UInt8;
  divisor @8 :UInt16;
  thrInterruptPending @9 :Bool;
  received @10 :Data;             # the receive FIFO, oldest first
}

struct Power {
  sleepStatus @0 :UInt8;
}

# The transport's registers, its queues, and the device behind it.
struct VirtioMmio {
  deviceId @0 :UInt32;
  status @1 :UInt32;
  driverFeatures @2 :UInt64;
  deviceFeaturesSelect @3 :UInt32;
  driverFeaturesSelect @4 :UInt32;
  queueSelect @5 :UInt32;
  interruptStatus @6 :UInt32;
  configGeneration @7 :UInt32;
  queues @8 :List(VirtioQueue);
  union {
    rng @9 :Void;
    block @10 :VirtioBlock;
    balloon @11 :VirtioBalloon;
  }
}

struct VirtioQueue {
  size @0 :UInt16;
  ready @1 :Bool;
  descriptors @2 :UInt64;         # guest-physical addresses of the three rings
  available @3 :UInt64;
  used @4 :UInt64;
  nextAvailable @5 :UInt16;       # free-running indexes, as in the rings
  nextUsed @6 :UInt16;
  signalledUsed @7 :UInt16;       # the used index at the last interrupt (event index)
  signalledUsedValid @8 :Bool;
}

struct VirtioBlock {
  capacitySectors @0 :UInt64;     # must be the destination's, too
  writeback @1 :Bool;
}

struct VirtioBalloon {
  targetPages @0 :UInt32;         # num_pages: the target that the driver was told
  actualPages @1 :UInt32;         # what the driver says
  inflated @2 :List(PageRange);   # guest pages in the balloon, sorted, disjoint
  statistics @3 :List(Statistic);
  statisticsBufferHeld @4 :Bool;  # a descriptor of the statistics queue is with the device
  statisticsHead @5 :UInt16;
  wantedPages @6 :UInt32;         # the target of the host, which the driver is told once ballooning is allowed

  struct Statistic {
    tag @0 :UInt16;
    value @1 :UInt64;
  }
}

struct PageRange {
  first @0 :UInt64;               # guest page frame number
  count @1 :UInt64;
}

@0xb3c1f6a2d97e4058;
# The control messages of version 2 of the wire, as they were frozen: a copy that nobody changes, for a peer that knows
# nothing else (docs/wire_format.md, "The promise").
# "→" is from the source to the destination, "←" the return path.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("ferrite::version2");

struct Control {
  union {
    invalid @0 :Void;             # what an unknown member reads as
    hello @1 :Hello;              # →
    welcome @2 :Welcome;          # ←
    machine @3 :Machine;          # →
    accept @4 :Accept;            # ←
    refuse @5 :Refusal;           # ←  the move ends, the guest runs on at the source
    advise @6 :Void;              # →
    ready @7 :Ready;              # ←
    round @8 :Round;              # →
    discard @9 :Discard;          # →
    discarded @10 :Void;          # ←  all DISCARDs up to the one with `last` are done
    package @11 :Package;         # →
    loaded @12 :Loaded;           # ←
    grant @13 :Grant;             # →
    running @14 :Running;         # ←
    end @15 :Void;                # →
    shut @16 :Shut;               # ←
    heard @17 :Void;              # →  SHUT arrived
    ping @18 :Ping;               # ↔
    pong @19 :Ping;               # ↔
    error @20 :Failure;           # ↔  the sender's own words; the move fails
    cancel @21 :Failure;          # →  before GRANT only
    recover @22 :Recover;         # →  in place of HELLO, after a lost connection
    standing @23 :Standing;       # ←
    revoke @24 :Void;             # →  GRANT never arrived, and shall not: the source takes the guest back
    revoked @25 :Void;            # ←
    missing @26 :Missing;         # ←
    opened @27 :Opened;           # ←  all page and urgent connections are here
    broken @28 :Broken;           # ↔  behind GRANT one page connection has ended, and the others go on
  }
}

struct Hello {
  moveId @0 :Data;                # 16 random bytes, as in every connection's preamble
  version @1 :UInt16;             # the newest the source speaks, at least the preamble's lowest
  lowestVersion @2 :UInt16;
  features @3 :UInt64;            # bits of version.h
  pageChannels @4 :UInt16;        # page connections that follow
  urgentChannels @5 :UInt16;      # likewise
  key @6 :Data;                   # 32 bytes: the source's public key of X25519, made for this connection
  nonce @7 :Data;                 # 32 random bytes of the source's
}

struct Welcome {
  version @0 :UInt16;             # the chosen one
  features @1 :UInt64;            # the common ones
  key @2 :Data;                   # as in HELLO, of the destination's
  nonce @3 :Data;                 # likewise
}

struct Machine {
  regions @0 :List(Region);       # at most 64; page frames number them in this order
  kind @1 :Text;                  # who can read `machine`: "ferrite"
  version @2 :UInt32;             # of `machine`
  machine @3 :Data;               # all else that the destination has to know, in the words of the one who built it
  digest @4 :Data;                # 32 bytes: whoever brings it said HELLO, and has the secret
}

struct Region {
  kind @0 :Kind;
  name @1 :Text;
  base @2 :UInt64;                # guest-physical
  bytes @3 :UInt64;
  pageBytes @4 :UInt64;           # of the source's host

  enum Kind {
    ram @0;
    disk @1;
  }
}

struct Accept {
  hostPageBytes @0 :List(UInt64); # per region, at the destination; 0: a disk that is left out (the feature "mirror")
  postcopy @1 :Bool;              # it can serve faults
  postcopyReason @2 :Text;        # when not: why, and the remedy
  digest @3 :Data;                # 32 bytes: whoever says it said WELCOME, and has the secret
}

struct Refusal {
  reason @0 :Text;
}

struct Ready {
  loadNanoseconds @0 :UInt64;     # what loading a state took when it was tried
}

# Sent when a round ends; the same number closes the round on every page channel.
struct Round {
  number @0 :UInt32;
  last @1 :Bool;                  # the guest is stopped: PACKAGE follows
}

struct Range {
  region @0 :UInt16;
  first @1 :UInt64;               # 4 KiB pages in the region
  count @2 :UInt64;
}

struct Discard {
  ranges @0 :List(Range);         # at most 4096
  last @1 :Bool;                  # answer with DISCARDED
}

# The state of the machine: one blob, checked as a whole before any of it is parsed, parsed before any of it is applied.
struct Package {
  version @0 :UInt32;             # of the blob's format: 1 is a state.capnp Machine, unpacked
  length @1 :UInt64;
  crc32c @2 :UInt32;
  blob @3 :Data;
  postcopy @4 :Bool;              # pages are missing: register userfaultfd before loading
}

struct Loaded {
  loadNanoseconds @0 :UInt64;
}

struct Grant {
  moveId @0 :Data;
  epoch @1 :UInt64;
}

struct Running {
  epoch @0 :UInt64;               # of the GRANT that it answers
}

struct Shut {
  ok @0 :Bool;
  message @1 :Text;               # when not
  figures @2 :DestinationFigures;
}

# What only the destination can measure.
struct DestinationFigures {
  faults @0 :UInt64;              # demand faults that went to the source
  minorFaults @1 :UInt64;         # faults on pages that had arrived
  duplicatePages @2 :UInt64;
  waiting @3 :List(Waiting);      # at most 256
  hostWait @4 :UInt64;            # ns that the move's thread waited for a processor while the guest stood still
  entryWait @5 :UInt64;           # the same of the vCPU that waited longest until it ran

  struct Waiting {
    vcpu @0 :UInt32;              # 0xffffffff: the monitor's own threads
    count @1 :UInt64;
    p50 @2 :UInt64;               # ns
    p99 @3 :UInt64;
    max @4 :UInt64;
    sum @5 :UInt64;
  }
}

struct Ping {
  token @0 :UInt64;
}

struct Failure {
  message @0 :Text;
}

struct Recover {
  moveId @0 :Data;
  epoch @1 :UInt64;               # of the GRANT that was written down
  pageChannels @2 :UInt16;
  urgentChannels @3 :UInt16;
}

struct Standing {
  granted @0 :Bool;               # GRANT arrived: the guest is the destination's
  digest @1 :Data;                # 32 bytes: whoever says so has the secret
}

struct Missing {
  ranges @0 :List(Range);         # at most 4096
  last @1 :Bool;
}

struct Opened {
  digest @0 :Data;                # 32 bytes: whoever says so has the secret
}

struct Broken {
  channel @0 :UInt16;             # its index, as in its preamble
  ranges @1 :List(Range);         # at most 4096; ← what is not there, → none
  last @2 :Bool;
}

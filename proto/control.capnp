@0xc8970c84ac2a8c72;
# The control interface of a running machine: Cap'n Proto RPC on the unix socket of its run directory, whose bootstrap
# capability is a Control. docs/commands.md shows the commands that call it.
#
# A call ends with its connection, or when its client gives it up (`finish`): what has not begun by then is not done, and
# what has goes on. Only so many calls may wait at a time, of a client and altogether; RESOURCE_EXHAUSTED is told at once
# for what is beyond.
#
# What fails is told in the result's `error`, never as an RPC exception: exceptions mean a broken connection, a method that
# this monitor is too old to have, or a mistake in the program. Methods and fields are only ever added.

using Cxx = import "/capnp/c++.capnp";
using Figures = import "move_figures.capnp";
$Cxx.namespace("ferrite::control");

struct Error {
  code @0 :UInt16;                # absl::StatusCode; 0 is success
  message @1 :Text;               # one line
}

interface Control {
  describe @0 () -> (machine :Description);
  pause @1 () -> (error :Error);  # returns when nothing writes guest memory any more
  resume @2 () -> (error :Error);
  reset @3 () -> (error :Error);
  # Returns when the machine is stopped; its monitor ends soon after. It waits for the operation that runs, and for none
  # of those that wait for their turn. Forced: also when a guest that was handed over may
  # still need its memory from here.
  stop @4 (force :Bool) -> (error :Error);

  balloon @5 () -> (error :Error, balloon :Balloon);
  # Sets the target. With waitMs (a day at the most), returns when the guest has reached it, or with DEADLINE_EXCEEDED.
  setBalloon @6 (targetBytes :UInt64, waitMs :UInt32) -> (error :Error, balloon :Balloon);

  # The serial console. What was printed last is replayed first.
  attachConsole @7 () -> (error :Error, console :Console);
  # `sink` gets every event from now on until the subscription or the connection is dropped.
  watch @8 (sink :EventSink) -> (error :Error, subscription :Subscription);

  # Begins to move the machine to another monitor's `ferrite receive`, and returns. The move goes on when the client goes
  # away; `watch` tells how it goes, until an event whose `move` is over.
  startMove @9 (destination :Text, options :MoveOptions) -> (error :Error, number :UInt64);
  moveStatus @10 () -> (error :Error, move :Move);   # of the last one, or the one that is on
  cancelMove @11 () -> (error :Error);    # returns when it has taken note; the guest then stays here
  startPostcopy @12 () -> (error :Error); # likewise; ends the rounds of pre-copy
  # Of a guest that was handed over and whose connection was lost: looks for the destination again (an empty text: where
  # it was) and goes on, as startMove, by what the move began by; or runs the guest here again, and returns when it does.
  recoverMove @13 (destination :Text) -> (error :Error, number :UInt64);
  takeBack @14 (force :Bool) -> (error :Error);

  # Copies disk `disk` to `target` while the guest writes to it, and returns when that has begun. It goes on when the client
  # goes away; `watch` tells how it goes, until an event whose `mirror` is over. A move and a mirror of a machine's exclude
  # one another.
  startMirror @15 (disk :Text, target :Text, existing :Bool, autoComplete :Bool, options :MirrorOptions)
      -> (error :Error, number :UInt64);
  mirrorStatus @16 (disk :Text) -> (error :Error, mirror :Mirror); # of the disk's last one, or the one that is on
  # Of a mirror that is ready: returns when the machine goes on with the target, or with why it stays, however long that
  # takes; `watch` tells how it goes meanwhile.
  completeMirror @17 (disk :Text) -> (error :Error);
  # Returns when it is over. With keepCopy, of a mirror that is ready, the target is a whole copy of that instant, and that
  # takes as long as completeMirror.
  cancelMirror @18 (disk :Text, keepCopy :Bool) -> (error :Error);
  pauseMirror @19 (disk :Text) -> (error :Error);
  resumeMirror @20 (disk :Text) -> (error :Error);  # also of one that waits because of an error
  setMirror @21 (disk :Text, maxBandwidth :UInt64) -> (error :Error);  # bytes/s; 0: no limit

  # As startMove and recoverMove, over TLS. They are methods of their own, and no field, which a monitor that does not know
  # it passes over: that one would move in plain. What shall be as strict later is another method, too.
  startMoveOverTls @22 (destination :Text, options :MoveOptions, tls :TlsOptions) -> (error :Error, number :UInt64);
  recoverMoveOverTls @23 (destination :Text, tls :TlsOptions) -> (error :Error, number :UInt64);
}

# Carries a file descriptor: one end of a stream socket pair, whose other end is the console. Closing it detaches.
interface Console {}

interface Subscription {}

interface EventSink {
  # Called for one event at a time: the next comes after the return. Who is slow misses events, and is told how many.
  event @0 (event :Event) -> ();
}

struct Event {
  kind @0 :Kind;
  text @1 :Text;
  unixMs @2 :Int64;               # when it happened, the host's clock
  missed @3 :UInt64;              # events before this one that were not delivered
  move @4 :Move;                  # of a move; also comes when only its figures changed
  mirror @5 :Mirror;              # of a mirror, likewise

  enum Kind {
    running @0;
    paused @1;
    reset @2;
    stopped @3;
    balloon @4;
    move @5;
    lostPage @6;                  # its text: the guest-physical address
    mirror @7;
  }
}

enum State {
  created @0;
  paused @1;
  running @2;
  stopped @3;
}

struct Description {
  name @0 :Text;
  state @1 :State;
  pid @2 :UInt32;
  version @3 :Text;               # of the monitor
  uptimeMs @4 :UInt64;            # since the monitor was started
  cpus @5 :UInt32;
  memoryBytes @6 :UInt64;
  memoryBacking @7 :Text;         # as --memory-backing
  memoryResidentBytes @8 :UInt64; # host memory that the guest's RAM uses now
  firstEntryNs @9 :Int64;         # from startedNs to the first guest instruction; 0: not yet
  kernel @10 :Text;
  initrd @11 :Text;
  commandLine @12 :Text;
  disks @13 :List(Disk);
  rng @14 :Bool;
  hasBalloon @15 :Bool;
  balloon @16 :Balloon;
  consoleDroppedBytes @17 :UInt64;
  move @18 :Move;                 # the last move away from here; number 0: there was none
  arrival @19 :Move;              # the move by which it came here, as far as this side measured it; number 0: it was booted
  startedNs @20 :Int64;           # on the monotonic clock: the start of the program, or where the machine arrived, its creation

  devices @21 :List(Device);      # the virtio devices, in their order; disks and rng say some of it again, for older clients

  struct Disk {
    id @0 :Text;
    path @1 :Text;
    readOnly @2 :Bool;
  }

  struct Device {
    kind @0 :Text;                # "virtio-blk"
    id @1 :Text;                  # "root"; empty where a machine has one of the kind
    facts @2 :List(Fact);         # as `info` shows them

    struct Fact {
      name @0 :Text;              # "path"
      union {
        flag @1 :Bool;
        text @2 :Text;
      }
    }
  }
  memoryHugeBytes @22 :UInt64;     # of what is resident: huge pages, transparent or not
  lostPages @23 :List(UInt64);     # guest-physical addresses of host pages that the hardware lost; the first 1024
  lostPageCount @24 :UInt64;       # of all
  mirrors @25 :List(Mirror);       # each disk's last one
}

struct Balloon {
  targetBytes @0 :UInt64;         # guest memory that shall be given back
  actualBytes @1 :UInt64;         # guest memory that is
  statistics @2 :List(Statistic); # what the guest's driver reported last

  struct Statistic {
    name @0 :Text;                # "free-memory", in bytes or a count
    value @1 :UInt64;
  }
}

struct MoveOptions {
  mode @0 :Mode;
  downtimeLimitNs @1 :UInt64 = 50000000;
  maxBandwidth @2 :UInt64;        # bytes/s; 0: no limit
  maxPostcopyBandwidth @3 :UInt64;
  channels @4 :UInt16 = 1;        # page connections, 1 to 16; 0: as many as help
  timeoutNs @5 :UInt64;           # of the rounds; 0: none
  postcopyOnTimeout @6 :Bool;     # else it is cancelled
  recoverForNs @7 :UInt64 = 30000000000; # how long a destination that was lost is looked for
  patienceNs @8 :UInt64 = 60000000000; # for a step of the destination's while it is greeted and builds the machine
  disks @9 :Disks;
  rdmaPinAll @10 :Bool;           # over RDMA: all of the memory is registered, from the start
  rdmaChunk @11 :UInt64 = 33554432; # bytes, a power of two: what is registered at a time else

  enum Disks {
    auto @0;                      # those are copied that the destination has a place for
    shared @1;                    # none is: both sides reach them
    mirror @2;                    # all are, or the machine does not move
  }

  enum Mode {
    auto @0;
    precopy @1;
    postcopy @2;
  }
}

# Files of the monitor's host.
struct TlsOptions {
  directory @0 :Text;             # ca-cert.pem, client-cert.pem, client-key.pem
  pskFile @1 :Text;               # in place of those
  hostname @2 :Text;              # that the destination's certificate has to have
}

# Durations are in nanoseconds, rates in bytes a second.
struct Move {
  number @0 :UInt64;              # of this monitor's moves, from 1
  destination @1 :Text;
  state @2 :Text;                 # "active", "postcopy-active" ...
  round @3 :UInt32;
  sentBytes @4 :UInt64;
  remainingBytes @5 :UInt64;
  rate @6 :Float64;
  dirtyRate @7 :Float64;
  expectedDowntime @8 :Int64;
  throttlePercent @9 :UInt8;
  faults @10 :UInt64;

  over @11 :Bool;
  # When it is over.
  result @12 :Error;
  guest @13 :Place;
  report @14 :Figures.MoveReport;
  grantedFor @15 :Int64;          # since GRANT went out, or since the guest runs here that came; 0 before
  parts @16 :List(Part);          # what moves beside memory, at the source: the disks

  struct Part {
    name @0 :Text;                # "disk root"
    bytes @1 :UInt64;
    dataBytes @2 :UInt64;         # that were sent
    zeroBytes @3 :UInt64;         # that were told to be zero, holes among them
    againBytes @4 :UInt64;        # of both: not for the first time
    readyAfter @5 :Int64;         # since the move began; 0: it is not ready
    writeBlocking @6 :Bool;       # who wrote to it waited for the destination
    shared @7 :Bool;              # it was not copied: both sides reach it
  }

  # Where the guest is, as far as the source knows.
  enum Place {
    hereRunning @0;
    herePaused @1;
    hereStopped @2;
    there @3;                     # it runs at the destination, which has said so
    handedOver @4;                # it may run there, and does not here
    therePaused @5;               # it is there, paused as it was here
  }
}

struct MirrorOptions {
  granularity @0 :UInt32 = 65536; # bytes of a chunk
  bufferBytes @1 :UInt64 = 16777216;
  inFlight @2 :UInt32 = 16;       # operations at a time
  writeBlocking @3 :Bool;         # from the start; else when background copying does not converge
  maxBandwidth @4 :UInt64;        # bytes/s; 0: no limit
  onSourceError @5 :ErrorPolicy;
  onTargetError @6 :ErrorPolicy;
  downtimeLimitNs @7 :UInt64 = 50000000;

  enum ErrorPolicy {
    report @0;
    ignore @1;
    stop @2;
    stopWhenFull @3;              # "enospc"
  }
}

# Durations are in nanoseconds, rates in bytes a second.
struct Mirror {
  number @0 :UInt64;              # of this monitor's mirrors, from 1; 0: there was none
  disk @1 :Text;
  target @2 :Text;                # as it was asked for
  what @3 :Text;                  # what that is: "file, made here, 4.0 GiB"
  state @4 :Text;                 # "running", "ready" ...
  writeBlocking @5 :Bool;         # as it is now
  autoComplete @6 :Bool;
  totalBytes @7 :UInt64;
  doneBytes @8 :UInt64;
  dirtyBytes @9 :UInt64;
  inFlightBytes @10 :UInt64;
  copiedBytes @11 :UInt64;
  zeroBytes @12 :UInt64;
  againBytes @13 :UInt64;
  rate @14 :Float64;
  dirtyRate @15 :Float64;
  heldWrites @16 :UInt64;
  errors @17 :UInt64;
  took @18 :Int64;
  readyAfter @19 :Int64;          # 0: not yet
  cause @20 :Text;                # why it waits, or the error of what is tried again

  over @21 :Bool;
  # When it is over.
  result @22 :Error;
  end @23 :End;
  standstill @24 :Int64;          # how long the disk's requests waited for the end

  # What became of the target.
  enum End {
    left @0;                      # was there before, and is no whole copy: its mark stands beside it
    removed @1;
    kept @2;                      # a whole copy; the machine stays with the source
    disk @3;                      # the machine's disk from then on
  }
}

@0xe7380b5132c67e8a;
# What a move came to. Durations are in nanoseconds, pages are of 4 KiB. Fields are only ever added; each has a row in
# vmm/control/move_figures.h, which is where it gets its name in JSON.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("ferrite::figures");

struct MoveReport {
  postcopy @0 :Bool;
  total @1 :Int64;
  downtime @2 :Int64;           # the six parts that follow add up to it
  stop @3 :Int64;
  lastPages @4 :Int64;
  state @5 :Int64;
  send @6 :Int64;
  load @7 :Int64;
  run @8 :Int64;
  rounds @9 :UInt32;
  dataPages @10 :UInt64;
  zeroPages @11 :UInt64;
  skippedPages @12 :UInt64;
  twicePages @13 :UInt64;
  bytes @14 :UInt64;
  faults @15 :UInt64;
  minorFaults @16 :UInt64;
  requestedPages @17 :UInt64;
  prefetchedPages @18 :UInt64;
  prefetchHits @19 :UInt64;
  duplicatePages @20 :UInt64;
  waiting @21 :List(Waiting);
  recoveries @22 :UInt32;
  copiedPages @23 :UInt64;
  downtimeLimit @24 :Int64;
  sourceWait @25 :Int64;
  destinationWait @26 :Int64;
  entryWait @27 :Int64;
  movedPages @28 :UInt64;
  hugeBytes @29 :UInt64;
  compactedBlocks @30 :UInt64;
  lostPages @31 :UInt64;        # host pages that went as lost
  lostAt @32 :List(UInt64);     # the first of them, as guest-physical addresses
  brokenChannels @33 :UInt32;   # page connections that broke alone, and the others went on
  channels @34 :UInt32;         # page connections that memory went over before the guest did
  openChannels @35 :UInt32;     # of so many
  countedChannels @36 :Bool;    # they are as many as helped
  channelRates @37 :List(UInt64); # bytes/s that were measured over one, two, and so on
}

# How long threads of the destination waited for pages.
struct Waiting {
  vcpu @0 :UInt32;              # 0xffffffff: the monitor's own threads
  count @1 :UInt64;
  p50 @2 :Int64;
  p99 @3 :Int64;
  max @4 :Int64;
  sum @5 :Int64;
}

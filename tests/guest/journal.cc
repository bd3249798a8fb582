// Keeps a journal on its disk (journal_blocks.h): looks at what is there, says so, and goes on behind what was flushed.
//
//   slots=1024      of 4 KiB, from the start of the disk; a power of two, 16 at least
//   pause_us=0      between two batches
//   report_ms=5     time between reports; `flushed` in one is the last number that the disk said it has
//
// Command q: power off.
#include "tests/guest/journal_blocks.h"
#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"
#include "tests/guest/runtime/virtio.h"

namespace guest {
namespace {

static_assert(kJournalBatch == VirtioQueue::kChains);
static_assert(kJournalBlockBytes == kPageBytes);

class Journal {
 public:
  void Open() {
    slots_ = NumberOption("slots", 1024);
    if (!device_.Open(kVirtioBlock, 0, kFlush) || !device_.Has(kFlush)) {
      Fail("no-disk-that-flushes");
    }
    queue_.Start(device_.base(), 0);
    device_.Ready();
    if (const uint64_t sectors = device_.ReadConfig64(0); sectors * kSectorBytes < slots_ * kJournalBlockBytes) {
      Fail("disk-is-too-small", sectors);
    }
    for (Request& request : requests_) {
      request.header = static_cast<Header*>(TakePages(1));
      request.data = static_cast<volatile uint64_t*>(TakePages(kSlotsOfALook));
    }
    audit_.numbers = static_cast<uint64_t*>(TakePages((slots_ * 8 + kPageBytes - 1) / kPageBytes));
    audit_.slots = slots_;
  }

  // What a monitor before this one left.
  void Look() {
    for (uint64_t slot = 0; slot < slots_; slot += kSlotsOfALook) {
      Start(0, kIn, slot);
      Await(1);
      for (uint64_t i = 0; i < kSlotsOfALook; ++i) {
        audit_.See(slot + i, requests_[0].data + i * kWordsInPage);
        ThisCpu().Heartbeat();
      }
    }
    if (!audit_.IsOfOneInstant()) {
      ++errors_;
    }
    flushed_ = audit_.flushed;
    Line("found")
        .Add("flushed", audit_.flushed)
        .Add("last", audit_.last)
        .Add("broken", audit_.broken)
        .Add("missing", audit_.MissingUpTo(audit_.flushed))
        .Add("errors", errors_)
        .Send();
  }

  // A batch, flushed.
  void Write() {
    const uint64_t begin = Tsc();
    for (uint32_t i = 0; i < kJournalBatch; ++i) {
      const uint64_t number = flushed_ + 1 + i;
      FillJournalBlock(requests_[i].data, number, flushed_);
      Start(i, kOut, JournalSlot(number, slots_));
    }
    Await(kJournalBatch);
    Start(0, kFlushType, 0);
    Await(1);
    flushed_ += kJournalBatch;
    const uint64_t took = Tsc() - begin;
    longest_ = took > longest_ ? took : longest_;
  }

  void Report(const char* event) const {
    Line(event).Add("flushed", flushed_).Add("errors", errors_).Add("longest_us", TscToNs(longest_) / 1000).Send();
  }

 private:
  static constexpr uint64_t kSectorBytes = 512;
  static constexpr uint64_t kSlotsOfALook = 16;
  static constexpr uint64_t kFlush = 1 << 9;
  enum Type : uint32_t { kIn = 0, kOut = 1, kFlushType = 4 };
  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
    volatile uint8_t status;
  };
  struct Request {
    Header* header;
    volatile uint64_t* data;
  };

  void Start(uint32_t chain, Type type, uint64_t slot) {
    const Request& request = requests_[chain];
    *request.header = {
        .type = type, .sector = type == kFlushType ? 0 : slot * kJournalBlockBytes / kSectorBytes, .status = 0xff};
    const Segment header{.data = request.header, .bytes = 16, .device_writes = false};
    const Segment data{.data = request.data,
                       .bytes = static_cast<uint32_t>((type == kIn ? kSlotsOfALook : 1) * kPageBytes),
                       .device_writes = type == kIn};
    const Segment status{.data = &request.header->status, .bytes = 1, .device_writes = true};
    const Segment all[] = {header, data, status};
    const Segment flush[] = {header, status};
    type == kFlushType ? queue_.Add(chain, flush, 2) : queue_.Add(chain, all, 3);
  }
  void Await(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      const VirtioQueue::Used used = queue_.Wait();
      if (const uint8_t status = requests_[used.chain].header->status; status != 0) {
        ++errors_;
        Line("error").Add("type", requests_[used.chain].header->type).Add("status", status).Send();
      }
    }
  }

  VirtioDevice device_;
  VirtioQueue queue_;
  Request requests_[VirtioQueue::kChains] = {};
  JournalAudit audit_ = {};
  uint64_t slots_ = 0;
  uint64_t flushed_ = 0;
  uint64_t errors_ = 0;
  uint64_t longest_ = 0;  // of a batch
};

Journal journal;

}  // namespace

void Main() {
  journal.Open();
  journal.Look();
  const uint64_t pause = NumberOption("pause_us", 0) * TscKhz() / 1000;
  const uint64_t report = NumberOption("report_ms", 5) * TscKhz();
  uint64_t next_report = 0;
  for (;;) {
    journal.Write();
    const uint64_t now = Tsc();
    if (now >= next_report) {
      next_report = now + report;
      journal.Report("journal");
      if (ReadCommand() == 'q') {
        break;
      }
    }
    while (Tsc() - now < pause) {
      ThisCpu().Heartbeat();
      Relax();
    }
  }
  journal.Report("done");
}

}  // namespace guest

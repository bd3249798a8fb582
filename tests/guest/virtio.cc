// Drives the machine's virtio devices by polling, all of those that are there at the same time, and looks whether they
// do what they should.
//
//   rounds=0        power off after so many rounds of the disk (without a disk: of random numbers); 0: never
//   report_ms=100   time between reports
//   blk_nth=0       which of the disks, the others are left alone
//   blk_span=4M     bytes of the disk, from its start, that are written, flushed and read back in a round
//   blk_chunk=64K   bytes of a request (whole sectors); blk_depth=8 requests in flight
//   discard=1       and discarded and written with zeroes, where the disk can
//   blk_cold=0      in place of all that, the disk is only read, to so many bytes in turn (whole chunks) that were
//   filled
//                   at the start and that nobody but the device touches, and nobody compares
//   fill=32M        free memory that is filled with known content; the balloon takes it first
//   report_free=0   bytes of other free memory that are reported as free to the balloon, once; command r: once more
//   scatter=0       in place of following the target, keep the balloon's queue full of lists of so many pages, every
//                   other one of the last free memory, as a driver that says nothing when it uses them again; with
//                   fill=0
//
// The balloon follows the target that the monitor sets. Commands: c check the filled memory; q the same, and power off.
#include "tests/guest/runtime/virtio.h"

#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/pages.h"
#include "tests/guest/runtime/planted.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"

namespace guest {
namespace {

constexpr uint64_t kSeed = 0x766972742d696f21;
constexpr uint64_t kCommandMs = 5;
uint64_t errors;

void Wrong(const char* device, const char* what, uint64_t value) {
  constexpr uint64_t kErrorsShown = 8;
  if (++errors <= kErrorsShown) {
    Line("error").Add("device", device).Add("what", what).AddHex("value", value).Send();
  }
}

// Random numbers: each read brings as many bytes as asked for, and never the same.
class Entropy {
 public:
  bool Open() {
    if (!device_.Open(kVirtioEntropy, 0, 0)) {
      return false;
    }
    queue_.Start(device_.base(), 0);
    device_.Ready();
    words_ = static_cast<volatile uint64_t*>(TakePages(1));
    Ask();
    return true;
  }

  void Step() {
    const VirtioQueue::Used used = queue_.Poll();
    if (!used.any) {
      return;
    }
    if (used.written == 0 || used.written > kBytes) {
      Wrong("rng", "written", used.written);
    }
    if (words_[0] == last_ || words_[0] == 0) {
      Wrong("rng", "not-random", words_[0]);
    }
    last_ = words_[0];
    bytes_ += used.written;
    ++rounds_;
    Ask();
  }

  uint64_t bytes() const { return bytes_; }
  uint64_t rounds() const { return rounds_; }

 private:
  static constexpr uint32_t kBytes = 64;

  void Ask() {
    words_[0] = 0;
    const Segment segment{.data = words_, .bytes = kBytes, .device_writes = true};
    queue_.Add(0, &segment, 1);
  }

  VirtioDevice device_;
  VirtioQueue queue_;
  volatile uint64_t* words_ = nullptr;
  uint64_t last_ = 0;
  uint64_t bytes_ = 0;
  uint64_t rounds_ = 0;
};

// A disk: in each round the span is written with content of that round, flushed, read back and compared.
class Disk {
 public:
  bool Open() {
    if (!device_.Open(kVirtioBlock, static_cast<uint32_t>(NumberOption("blk_nth", 0)),
                      kFlush | kDiscard | kWriteZeroes)) {
      return false;
    }
    queue_.Start(device_.base(), 0);
    device_.Ready();
    chunk_ = NumberOption("blk_chunk", 64 << 10);
    depth_ = NumberOption("blk_depth", VirtioQueue::kChains);
    const uint64_t span = NumberOption("blk_span", 4 << 20);
    const uint64_t capacity = device_.ReadConfig64(0) * kSectorBytes;
    if (span > capacity || chunk_ % kSectorBytes != 0 || chunk_ == 0 || depth_ > VirtioQueue::kChains || depth_ == 0) {
      Fail("blk-options", capacity);
    }
    chunks_ = span / chunk_;
    for (uint32_t i = 0; i < VirtioQueue::kChains; ++i) {
      requests_[i].header = static_cast<Header*>(TakePages(1));
      requests_[i].data = static_cast<volatile uint64_t*>(TakePages((chunk_ + kPageBytes - 1) / kPageBytes));
    }
    cold_chunks_ = NumberOption("blk_cold", 0) / chunk_;
    if (cold_chunks_ != 0) {
      const uint64_t pages = cold_chunks_ * chunk_ / kPageBytes;
      cold_ = static_cast<volatile uint64_t*>(TakePages(pages));
      for (uint64_t page = 0; page < pages; ++page) {
        FillPage(cold_ + page * kPageBytes / 8, {.seed = kSeed, .page = page, .generation = 1}, 0);
      }
    }
    phase_start_ = Tsc();
    return true;
  }

  void Step() {
    for (VirtioQueue::Used used = queue_.Poll(); used.any; used = queue_.Poll()) {
      Finish(requests_[used.chain], used.written);
      in_flight_ &= ~(1u << used.chain);
    }
    if (phase_ == Phase::kWrite || phase_ == Phase::kRead) {
      for (uint32_t i = 0; i < depth_ && next_chunk_ < chunks_; ++i) {
        if ((in_flight_ & 1u << i) == 0) {
          Start(i, phase_ == Phase::kWrite && cold_ == nullptr ? kOut : kIn, next_chunk_++);
        }
      }
      if (next_chunk_ == chunks_ && in_flight_ == 0) {
        NextPhase();
      }
    } else if (in_flight_ == 0) {
      if (phase_started_) {
        NextPhase();
      } else {
        phase_started_ = true;
        StartWholeSpan();
      }
    }
  }

  // Counts what is whole: rounds.
  uint64_t rounds() const { return rounds_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t write_ns() const { return TscToNs(phase_ticks_[0]); }
  uint64_t read_ns() const { return TscToNs(phase_ticks_[2]); }

 private:
  static constexpr uint64_t kSectorBytes = 512;
  static constexpr uint64_t kFlush = 1 << 9;
  static constexpr uint64_t kDiscard = 1 << 13;
  static constexpr uint64_t kWriteZeroes = 1 << 14;
  enum Type : uint32_t { kIn = 0, kOut = 1, kFlushType = 4, kDiscardType = 11, kWriteZeroesType = 13 };
  enum class Phase { kWrite, kFlush, kRead, kWriteZeroes, kDiscard, kEnd };

  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
    struct {
      uint64_t sector;
      uint32_t sectors;
      uint32_t flags;
    } range;
    volatile uint8_t status;
  };
  struct Request {
    Header* header;
    volatile uint64_t* data;
    uint64_t chunk;
  };

  PageContent Content(uint64_t chunk) const { return {.seed = kSeed, .page = chunk, .generation = rounds_ + 1}; }

  void Start(uint32_t chain, Type type, uint64_t chunk) {
    Request& request = requests_[chain];
    request.chunk = chunk;
    *request.header = {.type = type, .sector = chunk * chunk_ / kSectorBytes, .status = 0xff};
    const uint64_t words = chunk_ / 8;
    const PageContent content = Content(chunk);
    volatile uint64_t* data = request.data;
    if (cold_ != nullptr) {
      data = cold_ + next_cold_++ % cold_chunks_ * words;
    } else {
      for (uint64_t i = 0; i < words; ++i) {
        data[i] = type == kOut ? ContentWord(content, i) : 0;
      }
    }
    const Segment segments[] = {
        {.data = request.header, .bytes = 16, .device_writes = false},
        {.data = data, .bytes = static_cast<uint32_t>(chunk_), .device_writes = type == kIn},
        {.data = &request.header->status, .bytes = 1, .device_writes = true},
    };
    queue_.Add(chain, segments, 3);
    in_flight_ |= 1u << chain;
  }

  // Flush, discard or write zeroes: one request.
  void StartWholeSpan() {
    Request& request = requests_[0];
    const Type type = phase_ == Phase::kFlush     ? kFlushType
                      : phase_ == Phase::kDiscard ? kDiscardType
                                                  : kWriteZeroesType;
    *request.header = {.type = type, .status = 0xff};
    request.header->range = {
        .sector = 0, .sectors = static_cast<uint32_t>(chunks_ * chunk_ / kSectorBytes), .flags = 0};
    const Segment segments[] = {
        {.data = request.header, .bytes = 16, .device_writes = false},
        {.data = &request.header->range, .bytes = 16, .device_writes = false},
        {.data = &request.header->status, .bytes = 1, .device_writes = true},
    };
    const Segment flush[] = {segments[0], segments[2]};
    type == kFlushType ? queue_.Add(0, flush, 2) : queue_.Add(0, segments, 3);
    in_flight_ |= 1;
  }

  void Finish(Request& request, uint32_t written) {
    const Header& header = *request.header;
    if (header.status != 0) {
      Wrong("blk", "status", uint64_t{header.type} << 8 | header.status);
    }
    if (header.type == kIn) {
      if (written != chunk_ + 1) {
        Wrong("blk", "written", written);
      }
      const PageContent content = Content(request.chunk);
      for (uint64_t i = 0; cold_ == nullptr && i < chunk_ / 8; ++i) {
        if (request.data[i] != ContentWord(content, i)) {
          Wrong("blk", "content-of-sector", (request.chunk * chunk_ + i * 8) / kSectorBytes);
          break;
        }
      }
    }
    if (header.type == kIn || header.type == kOut) {
      bytes_ += chunk_;
    }
  }

  bool IsWanted(Phase phase) const {
    const bool discard = NumberOption("discard", 1) != 0;
    return cold_ != nullptr && phase != Phase::kRead && phase != Phase::kEnd ? false
           : phase == Phase::kFlush                                          ? device_.Has(kFlush)
           : phase == Phase::kWriteZeroes                                    ? discard && device_.Has(kWriteZeroes)
           : phase == Phase::kDiscard                                        ? discard && device_.Has(kDiscard)
                                                                             : true;
  }

  void NextPhase() {
    const uint64_t now = Tsc();
    phase_ticks_[static_cast<int>(phase_)] = now - phase_start_;
    phase_start_ = now;
    do {
      phase_ = static_cast<Phase>(static_cast<int>(phase_) + 1);
    } while (!IsWanted(phase_));
    next_chunk_ = 0;
    phase_started_ = false;
    if (phase_ == Phase::kEnd) {
      phase_ = Phase::kWrite;
      ++rounds_;
    }
  }

  VirtioDevice device_;
  VirtioQueue queue_;
  Request requests_[VirtioQueue::kChains] = {};
  uint32_t in_flight_ = 0;  // a bit for each chain
  uint64_t chunk_ = 0;
  uint64_t depth_ = 0;
  uint64_t chunks_ = 0;
  volatile uint64_t* cold_ = nullptr;
  uint64_t cold_chunks_ = 0;
  uint64_t next_cold_ = 0;
  Phase phase_ = Phase::kWrite;
  bool phase_started_ = false;
  uint64_t next_chunk_ = 0;
  uint64_t rounds_ = 0;
  uint64_t bytes_ = 0;
  uint64_t phase_start_ = 0;
  uint64_t phase_ticks_[5] = {};
};

// Free memory with known content, numbered from its end: the balloon takes and returns pages in this order.
class FilledMemory {
 public:
  void Fill() {
    pages_ = NumberOption("fill", 32 << 20) / kPageBytes;
    if (pages_ > FreePages()) {
      Fail("fill-is-larger-than-memory", FreePages());
    }
    Refill(0, pages_);
  }

  void Refill(uint64_t first, uint64_t end) {
    for (uint64_t i = first; i < end && i < pages_; ++i) {
      FillPage(Words(i), {.seed = kSeed, .page = i, .generation = 0}, 0);
      ThisCpu().Heartbeat();
    }
  }

  // All but the first `ballooned`.
  void Check(uint64_t ballooned) {
    for (uint64_t i = ballooned; i < pages_; ++i) {
      if (const uint64_t word = CheckPage(Words(i), {.seed = kSeed, .page = i, .generation = 0}, 0);
          word != kWordsInPage) {
        Wrong("memory", "page", PageAt(i));
      }
      ThisCpu().Heartbeat();
    }
  }

  uint64_t pages() const { return pages_; }
  static uint64_t PageAt(uint64_t index) { return FreePage(FreePages() - 1 - index); }

 private:
  static volatile uint64_t* Words(uint64_t index) { return reinterpret_cast<volatile uint64_t*>(PageAt(index)); }

  uint64_t pages_ = 0;
};

class Balloon {
 public:
  bool Open(FilledMemory* memory) {
    memory_ = memory;
    scatter_ = NumberOption("scatter", 0);
    if (!device_.Open(kVirtioBalloon, 0, scatter_ != 0 ? 0 : kMustTellHost | kStatistics | kReporting)) {
      return false;
    }
    inflate_.Start(device_.base(), 0);
    deflate_.Start(device_.base(), 1);
    uint32_t next = 2;
    if (device_.Has(kStatistics)) {
      statistics_.Start(device_.base(), next++);
    }
    if (device_.Has(kReporting)) {
      reporting_.Start(device_.base(), next);
    }
    device_.Ready();
    frames_ = static_cast<volatile uint32_t*>(TakePages(1));
    statistic_ = static_cast<Statistic*>(TakePages(1));
    if (device_.Has(kStatistics)) {
      GiveStatistics();
    }
    if (scatter_ != 0) {
      MakeScatteredList();
    }
    return true;
  }

  // A batch of pages towards the target.
  void Step() {
    if (scatter_ != 0) {
      Scatter();
      return;
    }
    if (device_.Has(kStatistics) && statistics_.Poll().any) {
      GiveStatistics();
    }
    const uint64_t now = Tsc();
    if (now < next_look_) {
      return;
    }
    const uint64_t target = device_.ReadConfig32(kNumPages);
    if (target == actual_) {
      next_look_ = now + TscKhz();
      if (changing_) {
        changing_ = false;
        Line("balloon").Add("actual", actual_).Add("ns", TscToNs(now - change_start_)).Send();
      }
      return;
    }
    if (!changing_) {
      changing_ = true;
      change_start_ = now;
    }
    if (target > actual_) {
      const uint64_t count = Least(target - actual_, kBatch);
      Send(inflate_, actual_, count);
      actual_ += count;
    } else {
      const uint64_t count = Least(actual_ - target, kBatch);
      actual_ -= count;
      Send(deflate_, actual_, count);
      memory_->Refill(actual_, actual_ + count);
    }
    device_.WriteConfig32(kActual, static_cast<uint32_t>(actual_));
  }

  // Touches `bytes` of free memory at the start of it (the balloon takes from the end), then reports them as free.
  void ReportFree(uint64_t bytes) {
    if (!device_.Has(kReporting)) {
      Fail("balloon-without-reporting");
    }
    constexpr uint64_t kReportBytes = 2 << 20;
    const uint64_t first = (FreePage(0) + kReportBytes - 1) & ~(kReportBytes - 1);
    if (bytes % kReportBytes != 0 || first + bytes > FilledMemory::PageAt(memory_->pages())) {
      Fail("report_free-does-not-fit", bytes);
    }
    for (uint64_t at = first; at < first + bytes; at += kPageBytes) {
      FillPage(reinterpret_cast<volatile uint64_t*>(at), {.seed = kSeed, .page = at, .generation = 9}, 0);
    }
    Line("touched").Add("bytes", bytes).Send();
    for (uint64_t at = first; at < first + bytes; at += kReportBytes) {
      const Segment segment{.data = reinterpret_cast<void*>(at), .bytes = kReportBytes, .device_writes = true};
      reporting_.Add(0, &segment, 1);
      reporting_.Wait();
    }
    // They are ordinary memory again as soon as they are used.
    for (uint64_t at = first; at < first + bytes; at += kReportBytes) {
      auto* word = reinterpret_cast<volatile uint64_t*>(at);
      *word = at;
      if (*word != at) {
        Wrong("balloon", "reported-page", at);
      }
    }
    Line("reported").Add("bytes", bytes).Send();
  }

  uint64_t actual() const { return actual_; }
  bool NeedsReset() const { return device_.NeedsReset(); }

 private:
  static constexpr uint64_t kMustTellHost = 1 << 0;
  static constexpr uint64_t kStatistics = 1 << 1;
  static constexpr uint64_t kReporting = 1 << 5;
  static constexpr uint32_t kNumPages = 0;
  static constexpr uint32_t kActual = 4;
  static constexpr uint64_t kBatch = 256;

  // struct virtio_balloon_stat (virtio 1.2, 5.5.6.3).
  struct [[gnu::packed]] Statistic {
    uint16_t tag;
    uint64_t value;
  };
  enum : uint16_t { kFreeMemory = 4, kTotalMemory = 5 };

  static uint64_t Least(uint64_t a, uint64_t b) { return a < b ? a : b; }

  void Send(VirtioQueue& queue, uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      frames_[i] = static_cast<uint32_t>(FilledMemory::PageAt(first + i) / kPageBytes);
    }
    const Segment segment{.data = frames_, .bytes = static_cast<uint32_t>(count * 4), .device_writes = false};
    queue.Add(0, &segment, 1);
    queue.Wait();
  }

  void MakeScatteredList() {
    scattered_ = static_cast<volatile uint32_t*>(TakePages((scatter_ * 4 + kPageBytes - 1) / kPageBytes));
    if (2 * scatter_ > FreePages() / 2) {
      Fail("scatter-is-larger-than-memory", FreePages());
    }
    for (uint64_t i = 0; i < scatter_; ++i) {
      scattered_[i] = static_cast<uint32_t>(FilledMemory::PageAt(2 * i) / kPageBytes);
      ThisCpu().Heartbeat();
    }
  }

  // The same list in every chain.
  void Scatter() {
    for (VirtioQueue::Used used = inflate_.Poll(); used.any; used = inflate_.Poll()) {
      scattering_ &= ~(1u << used.chain);
    }
    for (uint32_t chain = 0; chain < VirtioQueue::kChains; ++chain) {
      if ((scattering_ & 1u << chain) == 0) {
        const Segment segment{.data = scattered_, .bytes = static_cast<uint32_t>(scatter_ * 4), .device_writes = false};
        inflate_.Add(chain, &segment, 1);
        scattering_ |= 1u << chain;
      }
    }
  }

  void GiveStatistics() {
    statistic_[0] = {.tag = kFreeMemory, .value = (FreePages() - actual_) * kPageBytes};
    statistic_[1] = {.tag = kTotalMemory, .value = FreePages() * kPageBytes};
    const Segment segment{.data = statistic_, .bytes = 2 * sizeof(Statistic), .device_writes = false};
    statistics_.Add(0, &segment, 1);
  }

  VirtioDevice device_;
  VirtioQueue inflate_;
  VirtioQueue deflate_;
  VirtioQueue statistics_;
  VirtioQueue reporting_;
  FilledMemory* memory_ = nullptr;
  volatile uint32_t* frames_ = nullptr;
  Statistic* statistic_ = nullptr;
  uint64_t scatter_ = 0;
  volatile uint32_t* scattered_ = nullptr;
  uint32_t scattering_ = 0;  // a bit for each chain
  uint64_t actual_ = 0;
  bool changing_ = false;
  uint64_t change_start_ = 0;
  uint64_t next_look_ = 0;
};

Entropy entropy;
Disk disk;
Balloon balloon;
FilledMemory memory;
bool has_entropy;
bool has_disk;
bool has_balloon;

void Report(const char* event) {
  Line(event)
      .Add("errors", errors)
      .Add("rng_bytes", entropy.bytes())
      .Add("blk_rounds", disk.rounds())
      .Add("blk_bytes", disk.bytes())
      .Add("blk_write_ns", disk.write_ns())
      .Add("blk_read_ns", disk.read_ns())
      .Add("balloon_pages", balloon.actual())
      .Add("gap_ns", TscToNs(ThisCpu().longest_gap))
      .Send();
}

void Check() {
  memory.Check(balloon.actual());
  if (const char* lost = CheckPlantedState(); lost != nullptr) {
    Wrong("machine", lost, 0);
  }
  Report("check");
}

}  // namespace

void Main() {
  has_entropy = entropy.Open();
  has_disk = disk.Open();
  has_balloon = balloon.Open(&memory);
  memory.Fill();
  PlantState();
  Cpu& cpu = ThisCpu();
  cpu.ForgetGaps();
  Line("ready")
      .Add("rng", has_entropy ? 1 : 0)
      .Add("blk", has_disk ? 1 : 0)
      .Add("balloon", has_balloon ? 1 : 0)
      .Add("pages", FreePages())
      .Send();
  const uint64_t report_free = NumberOption("report_free", 0);
  if (report_free != 0) {
    balloon.ReportFree(report_free);
  }
  const uint64_t rounds = NumberOption("rounds", 0);
  const uint64_t report_ticks = NumberOption("report_ms", 100) * TscKhz();
  uint64_t next_report = 0;
  uint64_t next_command = 0;
  for (;;) {
    cpu.Heartbeat();
    if (has_entropy) {
      entropy.Step();
    }
    if (has_disk) {
      disk.Step();
    }
    if (has_balloon) {
      balloon.Step();
    }
    if (rounds != 0 && (has_disk ? disk.rounds() : entropy.rounds()) >= rounds) {
      break;
    }
    if (cpu.last_beat >= next_report) {
      next_report = cpu.last_beat + report_ticks;
      Report("virtio");
    }
    if (cpu.last_beat >= next_command) {
      next_command = cpu.last_beat + kCommandMs * TscKhz();
      const int command = ReadCommand();
      if (command == 'q') {
        break;
      }
      if (command == 'c') {
        Check();
      } else if (command == 'r') {
        balloon.ReportFree(report_free);
      }
    }
  }
  Check();
  Line("done").Add("errors", errors).Send();
}

}  // namespace guest

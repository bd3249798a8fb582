// Writes blocks of the first disk at random places at a set rate, and takes the time of each.
//
//   mmio=             where the virtio devices' registers begin; only where no ACPI table says it
//   blk_span=4M       bytes of the disk, from its start, that are written; all of the disk where that is less
//   blk_block=4K      bytes of a write (whole sectors)
//   rate=1000         writes a second; 0: none
//   idle=0            1: begins idle
//
// A write's time is taken twice: from when it was given to the device until that said that it was done, and from when
// it was due. A disk that stands still makes every write late that is due meanwhile, of which eight at the most are
// with the device. What is late by more than a second is given up, and counted.
//
// Commands: i stop writing; g go on; z forget the times; w report them; q power off.
#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/durations.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/pages.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"
#include "tests/guest/runtime/virtio.h"

namespace guest {
namespace {

constexpr uint64_t kSeed = 0x7772697465727321;
constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kCommandMs = 5;
constexpr uint64_t kMostLateMs = 1000;

class Writer {
 public:
  void Open() {
    if (!device_.Open(kVirtioBlock, 0, 0)) {
      Fail("no-disk");
    }
    queue_.Start(device_.base(), 0);
    device_.Ready();
    block_ = NumberOption("blk_block", 4096);
    const uint64_t capacity = device_.ReadConfig64(0) * kSectorBytes;
    const uint64_t span = NumberOption("blk_span", 4 << 20);
    if (block_ == 0 || block_ % kSectorBytes != 0 || block_ > capacity) {
      Fail("blk-options", capacity);
    }
    blocks_ = (span < capacity ? span : capacity) / block_;
    rate_ = NumberOption("rate", 1000);
    for (Request& request : requests_) {
      request.header = static_cast<Header*>(TakePages(1));
      request.data = static_cast<volatile uint64_t*>(TakePages((block_ + kPageBytes - 1) / kPageBytes));
    }
  }

  void GoOn() {
    is_on_ = rate_ != 0;
    due_ = Tsc();
  }
  void Stop() { is_on_ = false; }

  void Step() {
    for (VirtioQueue::Used used = queue_.Poll(); used.any; used = queue_.Poll()) {
      Request& request = requests_[used.chain];
      const uint64_t now = Tsc();
      times_.Add(TscToNs(now - request.given));
      times_from_due_.Add(TscToNs(now - request.due));
      errors_ += request.header->status != 0 ? 1 : 0;
      in_flight_ &= ~(1u << used.chain);
    }
    if (!is_on_) {
      return;
    }
    const uint64_t now = Tsc();
    if (now < due_) {
      return;
    }
    const uint64_t period = TscKhz() * 1000 / rate_;
    if (const uint64_t most = kMostLateMs * TscKhz(); now - due_ > most) {
      given_up_ += (now - due_) / period;
      due_ = now;
    }
    if (const uint32_t free = static_cast<uint32_t>(__builtin_ctz(~in_flight_)); free < VirtioQueue::kChains) {
      Start(free, due_);
      due_ += period;
    }
  }

  void Forget() {
    __builtin_memset(&times_, 0, sizeof(times_));
    __builtin_memset(&times_from_due_, 0, sizeof(times_from_due_));
    given_up_ = 0;
  }
  void Report() const {
    Line("writes")
        .Add("count", times_.count)
        .Add("p50_ns", times_.Quantile(50))
        .Add("p99_ns", times_.Quantile(99))
        .Add("max_ns", times_.longest)
        .Add("sum_ns", times_.sum)
        .Add("due_p50_ns", times_from_due_.Quantile(50))
        .Add("due_p99_ns", times_from_due_.Quantile(99))
        .Add("given_up", given_up_)
        .Add("errors", errors_)
        .Send();
  }
  uint64_t blocks() const { return blocks_; }

 private:
  // struct virtio_blk_req (virtio 1.2, 5.2.6).
  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
    volatile uint8_t status;
  };
  static constexpr uint32_t kOut = 1;
  struct Request {
    Header* header;
    volatile uint64_t* data;
    uint64_t due;
    uint64_t given;
  };

  void Start(uint32_t chain, uint64_t due) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const uint64_t block = random_ % blocks_;
    Request& request = requests_[chain];
    request.due = due;
    *request.header = {.type = kOut, .sector = block * (block_ / kSectorBytes), .status = 0xff};
    const PageContent content = {.seed = kSeed, .page = block, .generation = ++number_};
    for (uint64_t i = 0; i < block_ / sizeof(uint64_t); ++i) {
      request.data[i] = ContentWord(content, i);
    }
    const Segment segments[] = {
        {.data = request.header, .bytes = 16, .device_writes = false},
        {.data = request.data, .bytes = static_cast<uint32_t>(block_), .device_writes = false},
        {.data = &request.header->status, .bytes = 1, .device_writes = true},
    };
    request.given = Tsc();
    queue_.Add(chain, segments, 3);
    in_flight_ |= 1u << chain;
  }

  VirtioDevice device_;
  VirtioQueue queue_;
  Request requests_[VirtioQueue::kChains] = {};
  uint32_t in_flight_ = 0;  // a bit for each chain
  uint64_t block_ = 0;
  uint64_t blocks_ = 0;
  uint64_t rate_ = 0;
  bool is_on_ = false;
  uint64_t due_ = 0;
  uint64_t random_ = kSeed;
  uint64_t number_ = 0;
  uint64_t errors_ = 0;
  uint64_t given_up_ = 0;
  Durations times_ = {};
  Durations times_from_due_ = {};
};

Writer writer;

}  // namespace

void Main() {
  writer.Open();
  Line("ready").Add("blocks", writer.blocks()).Add("tsc_khz", TscKhz()).Send();
  if (NumberOption("idle", 0) == 0) {
    writer.GoOn();
  }
  uint64_t next_command = 0;
  for (;;) {
    writer.Step();
    const uint64_t now = Tsc();
    if (now < next_command) {
      Relax();
      continue;
    }
    next_command = now + kCommandMs * TscKhz();
    switch (ReadCommand()) {
      case 'i':
        writer.Stop();
        break;
      case 'g':
        writer.GoOn();
        break;
      case 'z':
        writer.Forget();
        break;
      case 'w':
        writer.Report();
        break;
      case 'q':
        return;
      default:
        break;
    }
  }
}

}  // namespace guest

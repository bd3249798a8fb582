// What the virtio block device costs: random 4 KiB requests through its queue (no guest), beside a bare io_uring loop
// on the same file in the same run. A ratio of 1.00 would mean that queue, doorbell, event loop and completion are
// free.
//
//   block_bench [--file PATH] [--mib 256] [--operations 20000] [--rounds 5]
//
// The file is made (and removed again), written once, and so in the page cache: what is measured is software.
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "bench/where.h"
#include "devices/block/async_io.h"
#include "devices/block/block.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/queue_driver.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

constexpr uint32_t kBlockBytes = 4096;
constexpr uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

struct Options {
  // Of this run: one that was killed does not stand in the way of the next.
  std::string file = "/tmp/ferrite-block-bench-" + std::to_string(getpid()) + ".img";
  uint64_t mib = 256;
  uint64_t operations = 20000;
  uint32_t rounds = 5;

  uint64_t blocks() const { return (mib << 20) / kBlockBytes; }
};

struct Load {
  bool write;
  uint16_t depth;
};

// The same sequence of blocks for everyone.
class RandomBlocks {
 public:
  explicit RandomBlocks(uint64_t blocks) : any_(0, blocks - 1) {}
  uint64_t Next() { return any_(engine_); }

 private:
  std::mt19937_64 engine_{42};
  std::uniform_int_distribution<uint64_t> any_;
};

double PerSecond(uint64_t operations, MonotonicTime start) {
  return static_cast<double>(operations) / absl::ToDoubleSeconds(MonotonicTime::Now() - start);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// `depth` requests in flight, each replaced when it is done: no thread, no queue, no guest memory.
double RunBare(int fd, const Options& options, const Load& load) {
  io_uring ring;
  FERRITE_CHECK(io_uring_queue_init(load.depth, &ring, 0) == 0);
  std::vector<uint8_t> buffers(size_t{load.depth} * kBlockBytes);
  RandomBlocks blocks(options.blocks());
  uint64_t submitted = 0;
  const auto submit = [&](uint8_t* buffer) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    const uint64_t offset = blocks.Next() * kBlockBytes;
    if (load.write) {
      io_uring_prep_write(entry, fd, buffer, kBlockBytes, offset);
    } else {
      io_uring_prep_read(entry, fd, buffer, kBlockBytes, offset);
    }
    io_uring_sqe_set_data(entry, buffer);
    ++submitted;
  };
  const MonotonicTime start = MonotonicTime::Now();
  for (uint16_t i = 0; i < load.depth; ++i) {
    submit(buffers.data() + size_t{i} * kBlockBytes);
  }
  for (uint64_t done = 0; done < options.operations;) {
    FERRITE_CHECK(io_uring_submit_and_wait(&ring, 1) >= 0);
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring, &completion) == 0) {
      FERRITE_CHECK(completion->res == static_cast<int>(kBlockBytes));
      auto* buffer = static_cast<uint8_t*>(io_uring_cqe_get_data(completion));
      io_uring_cqe_seen(&ring, completion);
      ++done;
      if (submitted < options.operations) {
        submit(buffer);
      }
    }
  }
  const double rate = PerSecond(options.operations, start);
  io_uring_queue_exit(&ring);
  return rate;
}

// The device, with a driver on this thread that looks at the used ring all the time, as a busy vCPU would.
class DeviceRun {
 public:
  DeviceRun(const Options& options, AsyncIo::Engine engine) : options_(options) {
    auto loop = EventLoop::Create("block-bench");
    FERRITE_CHECK(loop.ok());
    loop_ = *std::move(loop);
    auto image = DiskImage::Create(options.file, false);
    FERRITE_CHECK(image.ok());
    auto io = AsyncIo::Create(*loop_, kBlockQueueSize, engine);
    FERRITE_CHECK(io.ok());
    harness_ = std::make_unique<VirtioHarness>(uint64_t{64} << 20, loop_.get());
    harness_->Attach(std::make_unique<Block>("bench", *std::move(image), *std::move(io)));
    for (uint16_t i = 0; i < kBlockQueueSize; ++i) {
      slots_.push_back({harness_->arena().Allocate(sizeof(BlockRequestHeader)),
                        harness_->arena().Allocate(kBlockBytes, kBlockBytes), harness_->arena().Allocate(1)});
    }
  }

  double Run(const Load& load) {
    harness_->Start(harness_->driver().OfferedFeatures(), kBlockQueueSize);
    QueueDriver& queue = harness_->queue(0);
    RandomBlocks blocks(options_.blocks());
    uint64_t submitted = 0;
    std::vector<uint16_t> slot_of_head(kBlockQueueSize);
    const auto submit = [&](uint16_t index) {
      const Slot& slot = slots_[index];
      const BlockRequestHeader header = {.type = load.write ? kBlockWrite : kBlockRead,
                                         .sector = blocks.Next() * kSectorsPerBlock};
      FERRITE_CHECK(harness_->memory().WriteObject(slot.header, header).ok());
      auto chain = queue.Chain();
      chain.ReadableAt(slot.header, sizeof(header));
      if (load.write) {
        chain.ReadableAt(slot.data, kBlockBytes);
      } else {
        chain.WritableAt(slot.data, kBlockBytes);
      }
      slot_of_head[chain.WritableAt(slot.status, 1).Submit()] = index;
      ++submitted;
    };
    queue.DisableInterrupts();
    const MonotonicTime start = MonotonicTime::Now();
    for (uint16_t i = 0; i < load.depth; ++i) {
      submit(i);
    }
    harness_->driver().Notify(0);
    for (uint64_t done = 0; done < options_.operations;) {
      uint16_t added = 0;
      while (const auto used = queue.TakeUsed()) {
        const uint16_t index = slot_of_head[used->head];
        FERRITE_CHECK(*harness_->memory().ReadObject<uint8_t>(slots_[index].status) == kBlockStatusOk);
        ++done;
        if (submitted < options_.operations) {
          submit(index);
          ++added;
        }
      }
      if (added > 0 && queue.NeedsKick(added)) {
        harness_->driver().Notify(0);
      }
    }
    return PerSecond(options_.operations, start);
  }

 private:
  struct Slot {
    GuestAddress header;
    GuestAddress data;
    GuestAddress status;
  };

  const Options& options_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<VirtioHarness> harness_;
  std::vector<Slot> slots_;
};

void Fill(const Fd& fd, uint64_t mib) {
  const std::vector<uint8_t> chunk(1 << 20, 0x5a);
  for (uint64_t i = 0; i < mib; ++i) {
    FERRITE_CHECK(pwrite(fd.get(), chunk.data(), chunk.size(), static_cast<off_t>(i << 20)) == 1 << 20);
  }
  FERRITE_CHECK(fdatasync(fd.get()) == 0);
}

absl::Status Measure(const Options& options) {
  FERRITE_ASSIGN_OR_RETURN(const Fd fd, OpenFile(options.file, O_RDWR | O_CREAT | O_EXCL, 0600));
  const absl::Cleanup remove = [&options] { unlink(options.file.c_str()); };
  Fill(fd, options.mib);
  std::printf(
      "block_bench: random %u-byte requests on %s (%lu MiB, in the page cache), %u rounds of %lu, medians; %s\n",
      kBlockBytes, options.file.c_str(), options.mib, options.rounds, options.operations,
      WhereItRuns(Needs::kNothing).c_str());
  for (const AsyncIo::Engine engine : {AsyncIo::Engine::kIoUring, AsyncIo::Engine::kThreads}) {
    DeviceRun device(options, engine);
    for (const Load& load : {Load{false, 1}, Load{false, 32}, Load{true, 1}, Load{true, 32}}) {
      std::vector<double> bare_rates;
      std::vector<double> device_rates;
      // In turns: the machine's speed changes from second to second.
      for (uint32_t round = 0; round < options.rounds; ++round) {
        bare_rates.push_back(RunBare(fd.get(), options, load));
        device_rates.push_back(device.Run(load));
      }
      const double bare = Median(bare_rates);
      const double through_device = Median(device_rates);
      std::printf("%-5s depth %2u, device on %-8s: %8.0f/s, bare io_uring %8.0f/s, ratio %.2f\n",
                  load.write ? "write" : "read", load.depth,
                  engine == AsyncIo::Engine::kIoUring ? "io_uring" : "threads", through_device, bare,
                  through_device / bare);
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  ferrite::Options options;
  CLI::App app("Random 4 KiB I/O through the virtio block device, beside a bare io_uring loop");
  app.add_option("--file", options.file, "The image to make; it must not exist (default: in /tmp)");
  app.add_option("--mib", options.mib, "Its size")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--operations", options.operations, "Requests in a round")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Rounds of each")->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = ferrite::Measure(options);
  if (!status.ok()) {
    std::fprintf(stderr, "block_bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

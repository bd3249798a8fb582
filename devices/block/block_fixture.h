// What the tests of the block device share: an image, and the device on it with a driver that a test plays.
#ifndef FERRITE_DEVICES_BLOCK_BLOCK_FIXTURE_H_
#define FERRITE_DEVICES_BLOCK_BLOCK_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/status.h"
#include "capnp/message.h"
#include "devices/block/block.h"
#include "devices/block/block_protocol.h"
#include "devices/block/disk_image.h"
#include "devices/block/write_witness.h"
#include "devices/virtio/mmio_transport.h"
#include "memory/guest_memory.h"
#include "proto/state.capnp.h"
#include "tests/fakes/fake_async_io.h"
#include "tests/fakes/queue_driver.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {

inline constexpr uint64_t kSectors = 2048;
inline constexpr uint8_t kUntouched = 0xee;

// An image on a real file, with sector n filled with the byte n % 251.
class ImageFile {
 public:
  ImageFile() {
    fd_ = Fd(mkostemp(path_.data(), O_CLOEXEC));
    FERRITE_CHECK(fd_.valid());
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
      Write(sector, Pattern(sector, 1));
    }
  }
  ~ImageFile() { unlink(path_.c_str()); }

  const std::string& path() const { return path_; }
  static std::string Pattern(uint64_t sector, uint64_t sectors) {
    std::string out;
    for (uint64_t i = 0; i < sectors; ++i) {
      out.append(kSectorBytes, static_cast<char>((sector + i) % 251));
    }
    return out;
  }
  std::string Read(uint64_t sector, uint64_t sectors) const {
    std::string out(sectors * kSectorBytes, '?');
    FERRITE_CHECK(pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(sector * kSectorBytes)) ==
                  static_cast<ssize_t>(out.size()));
    return out;
  }
  // To `bytes`, the rest a hole.
  void Grow(uint64_t bytes) const { FERRITE_CHECK(ftruncate(fd_.get(), static_cast<off_t>(bytes)) == 0); }
  void Write(uint64_t sector, const std::string& bytes) const {
    FERRITE_CHECK(pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(sector * kSectorBytes)) ==
                  static_cast<ssize_t>(bytes.size()));
  }
  std::unique_ptr<DiskImage> Open(bool read_only = false) const {
    auto image = DiskImage::Create(path_, read_only);
    FERRITE_CHECK(image.ok());
    return *std::move(image);
  }

 private:
  std::string path_ = "/tmp/ferrite-block-XXXXXX";
  Fd fd_;
};

inline std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The device with a fake AsyncIo; the test finishes each operation.
class BlockTest : public testing::Test {
 protected:
  // The device is quiesced.
  void SaveResetAndLoad() {
    capnp::MallocMessageBuilder message;
    auto state = message.initRoot<state::Device>();
    harness_.transport().Save(state);
    harness_.transport().Reset();
    ASSERT_TRUE(harness_.transport().CheckState(state.asReader()).ok());
    harness_.transport().LoadState(state.asReader());
  }

  void Start(uint64_t refused_features = 0, bool read_only = false) {
    auto io = std::make_unique<FakeAsyncIo>();
    io_ = io.get();
    auto device = std::make_unique<Block>("root", file_.Open(read_only), std::move(io));
    device_ = device.get();
    harness_.Attach(std::move(device));
    harness_.Start(harness_.driver().OfferedFeatures() & ~refused_features);
  }

  void SetWitness(WriteWitness* witness) {
    const virtio::Device::Lock lock(device_);
    device_->SetWitness(witness);
  }
  QueueDriver& queue() { return harness_.queue(0); }
  ChainBuilder Request(uint32_t type, uint64_t sector) {
    auto chain = queue().Chain();
    chain.ReadableObject(BlockRequestHeader{.type = type, .sector = sector});
    return chain;
  }
  // Ends the chain with a status byte, hands it to the device, and finishes all that it asks of the file.
  uint8_t Run(ChainBuilder chain, uint32_t* written = nullptr) {
    Submit(std::move(chain));
    while (!io_->started().empty()) {
      io_->Finish(0);
    }
    return TakeStatus(written);
  }
  void Submit(ChainBuilder chain) {
    status_ = harness_.arena().Place(std::vector<uint8_t>{kUntouched});
    chain.WritableAt(status_, 1).Submit();
    harness_.Kick(0);
  }
  uint8_t TakeStatus(uint32_t* written = nullptr) {
    const auto used = queue().TakeUsed();
    if (!used.has_value()) {
      ADD_FAILURE() << "not completed";
      return kUntouched;
    }
    if (written != nullptr) {
      *written = used->written;
    }
    return StatusByte();
  }
  uint8_t StatusByte() { return harness_.arena().Read(status_, 1)[0]; }
  std::string GuestText(GuestAddress address, uint64_t bytes) {
    const std::vector<uint8_t> content = harness_.arena().Read(address, bytes);
    return {content.begin(), content.end()};
  }

  ImageFile file_;
  FakeAsyncIo* io_ = nullptr;
  Block* device_ = nullptr;
  VirtioHarness harness_;
  GuestAddress status_;
};

// A driver that accepted neither size_max nor seg_max knows of no limit (§5.2.3, §5.2.5): 8 MiB at once.
class LargeBlockTest : public BlockTest {
 protected:
  static constexpr uint32_t kBytes = uint32_t{8} << 20;
  static constexpr uint32_t kPiece = kMaxBlockTransferBytes;
  static constexpr GuestAddress kBuffer{uint64_t{8} << 20};  // the test's half of memory

  void SetUp() override {
    file_.Grow(uint64_t{64} << 20);
    file_.Write(kPiece / kSectorBytes - 1, std::string(1024, 'm'));  // on both sides of the first piece's end
    file_.Write(kBytes / kSectorBytes - 1, std::string(512, 'e'));
    Start(kBlockFeatureSizeMax | kBlockFeatureSegMax);
  }
  PageBitmap& written_pages() { return harness_.memory().regions()[0]->own_writes(); }
  static uint64_t BytesOf(const IoRequest& request) {
    uint64_t bytes = 0;
    for (const iovec& buffer : request.buffers) {
      bytes += buffer.iov_len;
    }
    return bytes;
  }
  // Pauses while the piece that was started first is in flight, which is done then.
  void PauseAfterThePiece() {
    std::thread completion;
    {
      absl::MutexLock lock(&device_->mutex());
      // Gets no further than to the device's mutex before the pause waits.
      completion = std::thread([this] { io_->Finish(0); });
      device_->Drain();
    }
    completion.join();
    harness_.transport().Quiesce();
  }
  void WriteHeader(GuestAddress at, const BlockRequestHeader& header) {
    ASSERT_TRUE(harness_.memory().Write(at, {reinterpret_cast<const uint8_t*>(&header), sizeof(header)}).ok());
  }
  void ExpectTheFileInTheBuffer() {
    EXPECT_TRUE(GuestText(kBuffer, kBytes) == file_.Read(0, kBytes / kSectorBytes));
    EXPECT_TRUE(written_pages().Test(kBuffer.value() / kPageBytes));
    EXPECT_TRUE(written_pages().Test((kBuffer + (kBytes - 1)).value() / kPageBytes));
  }
};

// Takes what comes back, woken by interrupts, until the device's index is there.
inline void AwaitUsed(VirtioHarness& harness, uint16_t used_index) {
  QueueDriver& queue = harness.queue(0);
  for (;;) {
    const uint64_t interrupts = harness.interrupt().count();
    while (queue.TakeUsed().has_value()) {
    }
    queue.EnableInterrupts();
    if (queue.HasUsed()) {
      continue;
    }
    if (queue.used_index() == used_index) {
      return;
    }
    ASSERT_TRUE(harness.interrupt().WaitFor(interrupts + 1)) << "an answer was lost";
  }
}

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_BLOCK_FIXTURE_H_

// What a virtio block device and its driver say to each other (virtio 1.2 §5.2), all little-endian.
#ifndef FERRITE_DEVICES_BLOCK_BLOCK_PROTOCOL_H_
#define FERRITE_DEVICES_BLOCK_BLOCK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ferrite {

inline constexpr uint32_t kBlockDeviceId = 2;

// Feature bits (§5.2.3).
inline constexpr uint64_t kBlockFeatureSizeMax = uint64_t{1} << 1;
inline constexpr uint64_t kBlockFeatureSegMax = uint64_t{1} << 2;
inline constexpr uint64_t kBlockFeatureReadOnly = uint64_t{1} << 5;
inline constexpr uint64_t kBlockFeatureBlockSize = uint64_t{1} << 6;
inline constexpr uint64_t kBlockFeatureFlush = uint64_t{1} << 9;
inline constexpr uint64_t kBlockFeatureTopology = uint64_t{1} << 10;
inline constexpr uint64_t kBlockFeatureConfigWriteback = uint64_t{1} << 11;  // VIRTIO_BLK_F_CONFIG_WCE
inline constexpr uint64_t kBlockFeatureDiscard = uint64_t{1} << 13;
inline constexpr uint64_t kBlockFeatureWriteZeroes = uint64_t{1} << 14;

// struct virtio_blk_config (§5.2.4), as far as the features above reach.
struct BlockConfig {
  uint64_t capacity = 0;  // in sectors of 512 bytes, as all sectors here
  uint32_t size_max = 0;  // bytes
  uint32_t seg_max = 0;
  uint8_t geometry[4] = {};
  uint32_t blk_size = 0;  // bytes
  uint8_t physical_block_exp = 0;
  uint8_t alignment_offset = 0;
  uint16_t min_io_size = 0;  // in blocks of blk_size
  uint32_t opt_io_size = 0;
  uint8_t writeback = 0;
  uint8_t unused0 = 0;
  uint16_t num_queues = 0;
  uint32_t max_discard_sectors = 0;
  uint32_t max_discard_seg = 0;
  uint32_t discard_sector_alignment = 0;
  uint32_t max_write_zeroes_sectors = 0;
  uint32_t max_write_zeroes_seg = 0;
  uint8_t write_zeroes_may_unmap = 0;
  uint8_t unused1[3] = {};
  uint32_t max_secure_erase_sectors = 0;
};
// Without padding: the guest would read in it what lies on the monitor's stack.
static_assert(std::has_unique_object_representations_v<BlockConfig>);
static_assert(offsetof(BlockConfig, blk_size) == 20);
static_assert(offsetof(BlockConfig, writeback) == 32);
static_assert(offsetof(BlockConfig, max_discard_sectors) == 36);
static_assert(offsetof(BlockConfig, write_zeroes_may_unmap) == 56);

// A request (§5.2.6) is this header and what is written, for the device to read; then what is read and, as its last
// byte, the status, for the device to write.
struct BlockRequestHeader {
  uint32_t type = 0;
  uint32_t reserved = 0;
  uint64_t sector = 0;
};
static_assert(sizeof(BlockRequestHeader) == 16);

inline constexpr uint32_t kBlockRead = 0;          // VIRTIO_BLK_T_IN
inline constexpr uint32_t kBlockWrite = 1;         // VIRTIO_BLK_T_OUT
inline constexpr uint32_t kBlockFlush = 4;         // VIRTIO_BLK_T_FLUSH
inline constexpr uint32_t kBlockGetId = 8;         // VIRTIO_BLK_T_GET_ID
inline constexpr uint32_t kBlockDiscard = 11;      // VIRTIO_BLK_T_DISCARD
inline constexpr uint32_t kBlockWriteZeroes = 13;  // VIRTIO_BLK_T_WRITE_ZEROES

inline constexpr uint8_t kBlockStatusOk = 0;
inline constexpr uint8_t kBlockStatusIoError = 1;
inline constexpr uint8_t kBlockStatusUnsupported = 2;

// What kBlockGetId returns: zero-padded, and without a zero at its end when it is that long.
inline constexpr size_t kBlockIdBytes = 20;

// The data of kBlockDiscard and kBlockWriteZeroes is a list of these.
struct BlockRange {
  uint64_t sector = 0;
  uint32_t sectors = 0;
  uint32_t flags = 0;
};
static_assert(sizeof(BlockRange) == 16);
inline constexpr uint32_t kBlockRangeUnmap = 1;

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_BLOCK_PROTOCOL_H_

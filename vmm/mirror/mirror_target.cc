#include "vmm/mirror/mirror_target.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "vmm/mirror/image_target.h"
#include "vmm/mirror/nbd_blocks.h"
#include "vmm/mirror/nbd_export.h"
#include "vmm/mirror/target_name.h"

namespace ferrite {
namespace {

using migration::BlockIo;
using migration::BlockOperation;

class NbdTarget : public MirrorTarget {
 public:
  NbdTarget(const Wanted& wanted, std::unique_ptr<NbdExport> nbd)
      : where_(wanted.where), nbd_(*nbd), blocks_(MakeNbdBlocks(wanted.where, std::move(nbd), wanted.depth)) {}

  const std::string& where() const override { return where_; }
  std::string Describe() const override {
    const NbdExport::Facts& facts = nbd_.facts();
    return absl::StrCat("NBD export \"", facts.name, "\" of ", where_, ", ", RoundedByteSize(facts.bytes),
                        facts.fast_zero ? ", fast zero"
                        : facts.zero    ? ", zero"
                                        : "",
                        facts.trim ? ", trim" : "", facts.flush ? "" : ", no flush", facts.tls ? ", TLS" : "");
  }
  BlockIo& blocks() override { return *blocks_; }
  bool is_zero() const override { return false; }
  absl::Status WriteOut() override {
    return NbdResult(nbd_, {.kind = BlockOperation::Kind::kFlush}, where_, nbd_.Flush());
  }
  absl::Status MarkComplete() override { return absl::OkStatus(); }
  void CutOff() override { nbd_.Cut(); }
  absl::StatusOr<std::unique_ptr<DiskImage>> TakeImage() override { return CheckCanBeDisk(); }
  absl::Status CheckCanBeDisk() const override {
    return absl::FailedPreconditionError(absl::StrCat("a machine's disk is a file or a block device, and cannot be ",
                                                      where_, "; `--cancel --keep-copy` leaves a whole copy there"));
  }
  bool made_here() const override { return false; }
  absl::Status Remove() override { return absl::OkStatus(); }
  absl::Status RemoveUntouched() override { return absl::OkStatus(); }

 private:
  const std::string where_;
  NbdExport& nbd_;  // of blocks_
  const std::unique_ptr<BlockIo> blocks_;
};

absl::Status CheckExport(const NbdExport::Facts& facts, const MirrorTarget::Wanted& wanted) {
  const std::string& where = wanted.where;
  if (facts.read_only) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": the export is read-only"));
  }
  if (facts.bytes < wanted.bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, ": the export has ", facts.bytes, " bytes, and the disk has ", wanted.bytes));
  }
  for (const uint64_t bytes : {facts.bytes, wanted.bytes}) {
    if (bytes % facts.block_bytes != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(where, ": the ", bytes == facts.bytes ? "export" : "disk", " has ", bytes,
                       " bytes, not a multiple of the export's block size, ", facts.block_bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MirrorTarget>> MirrorTarget::Open(const Wanted& wanted, EventLoop& loop) {
  FERRITE_ASSIGN_OR_RETURN(const TargetName name, ParseTargetName(wanted.where));
  if (wanted.bytes == 0 || wanted.bytes % kSectorBytes != 0 || wanted.bytes > std::numeric_limits<int64_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("a disk of ", wanted.bytes, " bytes cannot be mirrored"));
  }
  if (name.kind == TargetName::Kind::kPath) {
    return OpenImageTarget(wanted, loop);
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<NbdExport> nbd, NbdExport::Connect(name, loop, {.depth = wanted.depth}));
  FERRITE_RETURN_IF_ERROR(CheckExport(nbd->facts(), wanted));
  return std::make_unique<NbdTarget>(wanted, std::move(nbd));
}

}  // namespace ferrite

// What Machine does for a mirror.
#include "vmm/machine/machine_disks.h"

#include <utility>
#include <variant>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "devices/block/block.h"
#include "vmm/machine/machine_impl.h"

namespace ferrite {

MachineConfig MachineImpl::config() const {
  MachineConfig now = config_;
  absl::MutexLock lock(&disks_mutex_);
  now.devices = device_configs_;
  return now;
}

absl::StatusOr<const DeviceSet::PlacedDisk*> MachineImpl::FindDisk(absl::string_view id) const {
  for (const DeviceSet::PlacedDisk& disk : devices_->disks()) {
    if (disk.id == id) {
      return &disk;
    }
  }
  const std::string ids =
      absl::StrJoin(devices_->disks(), ", ",
                    [](std::string* out, const DeviceSet::PlacedDisk& disk) { absl::StrAppend(out, disk.id); });
  return absl::NotFoundError(absl::StrCat("the machine has no disk \"", CleanText(id), "\"; ",
                                          ids.empty() ? "it has none at all" : absl::StrCat("its disks: ", ids)));
}

absl::Status MachineImpl::CheckDisk(absl::string_view id) const { return FindDisk(id).status(); }

absl::StatusOr<const DiskImage*> MachineImpl::HeldImage(const DeviceSet::PlacedDisk& disk) {
  const DiskImage* image = nullptr;
  {
    const virtio::Device::Lock lock(disk.block);
    image = &disk.block->image();
  }
  if (!image->held()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine's disk ", disk.id, " is released: another monitor may have ", image->path()));
  }
  return image;
}

std::vector<MachineDisks::Disk> MachineImpl::List() const {
  std::vector<Disk> disks;
  const MachineConfig now = config();
  for (const DiskConfig* config : now.all<DiskConfig>()) {
    disks.push_back({.id = config->id, .path = config->path, .read_only = config->read_only});
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    Block* const block = devices_->disks()[i].block;
    const virtio::Device::Lock lock(block);
    disks[i].bytes = block->image().sectors() * kSectorBytes;
  }
  return disks;
}

absl::Status MachineImpl::WithImage(absl::string_view id,
                                    const std::function<absl::Status(const DiskImage& image)>& use) {
  FERRITE_ASSIGN_OR_RETURN(const DeviceSet::PlacedDisk* const disk, FindDisk(id));
  absl::MutexLock lock(&operation_mutex_);
  FERRITE_ASSIGN_OR_RETURN(const DiskImage* const image, HeldImage(*disk));
  return use(*image);
}

absl::Status MachineImpl::SetWitness(absl::string_view id, WriteWitness* witness) {
  FERRITE_ASSIGN_OR_RETURN(const DeviceSet::PlacedDisk* const disk, FindDisk(id));
  const virtio::Device::Lock lock(disk->block);
  if (WriteWitness* const now = disk->block->witness(); witness != nullptr && now != nullptr && now != witness) {
    return absl::AlreadyExistsError(
        absl::StrCat("the writes of the machine's disk ", disk->id, " are followed already"));
  }
  disk->block->SetWitness(witness);
  return absl::OkStatus();
}

void MachineImpl::AnswerHeld(absl::string_view id, uint64_t ticket) {
  for (const DeviceSet::PlacedDisk& disk : devices_->disks()) {
    if (disk.id == id) {
      disk.block->AnswerHeld(ticket);
    }
  }
}

absl::Status MachineImpl::AtStandstill(absl::string_view id, const std::function<absl::Status()>& work) {
  FERRITE_ASSIGN_OR_RETURN(const DeviceSet::PlacedDisk* const disk, FindDisk(id));
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kStopped) {
    return WrongState(absl::StrCat("bring the disk ", disk->id, " to a standstill"));
  }
  FERRITE_RETURN_IF_ERROR(HeldImage(*disk).status());
  // Else it stands still already, and is to afterwards.
  const bool runs = state() == MachineState::kRunning;
  if (runs) {
    UntilThereIsMemory([disk] { disk->transport->Quiesce(); });
  }
  const absl::Cleanup go_on = [this, disk, runs] {
    {
      absl::MutexLock disks_lock(&disks_mutex_);
      at_standstill_ = nullptr;
    }
    if (runs) {
      UntilThereIsMemory([disk] { disk->transport->Resume(); });
    }
  };
  {
    absl::MutexLock disks_lock(&disks_mutex_);
    at_standstill_ = disk;
  }
  return CatchOutOfMemory(work);
}

absl::StatusOr<std::unique_ptr<DiskImage>> MachineImpl::ReplaceImage(absl::string_view id,
                                                                     std::unique_ptr<DiskImage> image) {
  FERRITE_ASSIGN_OR_RETURN(const DeviceSet::PlacedDisk* const disk, FindDisk(id));
  absl::MutexLock lock(&disks_mutex_);
  if (at_standstill_ != disk) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine's disk ", disk->id, " goes on with its image: it does not stand still"));
  }
  if (!image->held()) {
    return absl::FailedPreconditionError(absl::StrCat("disk image ", image->path(), " is released"));
  }
  const virtio::Device::Lock device_lock(disk->block);
  const DiskImage& old = disk->block->image();
  if (image->sectors() != old.sectors()) {
    return absl::FailedPreconditionError(absl::StrCat("disk image ", image->path(), " has ",
                                                      image->sectors() * kSectorBytes, " bytes, the disk ", disk->id,
                                                      " has ", old.sectors() * kSectorBytes));
  }
  if (image->read_only() != old.read_only()) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk image ", image->path(), " is ", image->read_only() ? "read-only" : "open for writing",
                     ", the disk ", disk->id, old.read_only() ? " is read-only" : " is written"));
  }
  for (DeviceConfig& config : device_configs_) {
    if (auto* const changed = std::get_if<DiskConfig>(&config); changed != nullptr && changed->id == disk->id) {
      // Where it is made anew from this, the image is found by its path.
      *changed = {.id = disk->id, .path = image->path(), .read_only = image->read_only()};
    }
  }
  return disk->block->ReplaceImage(std::move(image));
}

}  // namespace ferrite

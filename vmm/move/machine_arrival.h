// A Machine as the destination of a move.
#ifndef FERRITE_VMM_MOVE_MACHINE_ARRIVAL_H_
#define FERRITE_VMM_MOVE_MACHINE_ARRIVAL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/event_loop.h"
#include "devices/serial/serial_backend.h"
#include "migration/api/destination_machine.h"
#include "migration/api/machine_spec.h"
#include "migration/channel/drop_log.h"
#include "proto/machine.capnp.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/move/allowed_files.h"
#include "vmm/move/arrival_options.h"
#include "vmm/move/boot_files.h"
#include "vmm/move/disk_landing.h"
#include "vmm/move/engine_host.h"

namespace ferrite {

// Makes the machine that arrives, and owns it: it outlives the move. Until the move runs it, it is held: nobody else
// can (R2). What is the matter with a file of this host is logged, and the errors do not say it: the peer hears them.
// Threads: as MachineBuilder says; Take() when the move is over.
class MachineArrival final : public migration::MachineBuilder {
 public:
  // What Machine::Create() needs; outlives the machine. `built` (may be empty) is called with the machine when it was
  // accepted, before anything arrives in it.
  struct Host {
    Kvm& kvm;
    EventLoop& loop;
    SerialBackend* console = nullptr;
    std::function<void(Machine&)> built;
  };
  // Finds the files that the options name, see AllowedFiles.
  static absl::StatusOr<std::unique_ptr<MachineArrival>> Create(Host host, ArrivalOptions options);

  absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> Build(const migration::MachineSpec& spec) override;
  void Accepted() override;
  void Dropped() override { machine_.reset(); }
  void Cancelled() override { digests_.End(); }

  // Null before Build().
  Machine* machine() { return machine_.get(); }
  std::unique_ptr<Machine> Take() { return std::move(machine_); }

 private:
  MachineArrival(Host host, ArrivalOptions options, AllowedFiles files)
      : host_(std::move(host)), options_(std::move(options)), files_(std::move(files)) {}
  // Makes machine_ and landings_.
  absl::Status Make(state::MachineDescription::Reader description,
                    std::span<const migration::MachineSpec::Region> regions);
  absl::StatusOr<std::unique_ptr<DiskLanding>> OpenLanding(const std::string& id, uint64_t bytes,
                                                           const AllowedFiles::CopyPlace& place);
  // Logs what is no peer's to hear.
  void Tell(absl::string_view words);

  const Host host_;
  const ArrivalOptions options_;
  const AllowedFiles files_;
  BootFileDigests digests_;
  migration::DropLog told_{EngineHost()};
  std::unique_ptr<Machine> machine_;
  std::vector<std::unique_ptr<DiskLanding>> landings_;  // until the port has them
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_MACHINE_ARRIVAL_H_

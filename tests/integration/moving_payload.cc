#include "tests/integration/moving_payload.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/thread.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/spoilt_machine.h"
#include "tests/fakes/test_thread.h"
#include "vmm/move/engine_host.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"

namespace ferrite {
namespace {

// MachineSource, whose words a test may change.
class HookedSource final : public migration::WholeSourceMachine {
 public:
  HookedSource(Machine& machine, const std::string& directory, const MoveTry& attempt)
      : directory_(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
        port_(machine, directory_),
        attempt_(attempt) {}

  void SetSession(migration::Source* session) { session_ = session; }

  GuestMemory& memory() override { return port_.memory(); }
  absl::StatusOr<migration::MachineSpec> Describe() override {
    absl::StatusOr<migration::MachineSpec> spec = port_.Describe();
    return spec.ok() && attempt_.on_describe ? Spoilt(*spec, attempt_.on_describe) : spec;
  }
  absl::Status StartDirtyTracking() override { return port_.StartDirtyTracking(); }
  absl::Status CollectDirty(size_t index, PageBitmap& into) override { return port_.CollectDirty(index, into); }
  void StopDirtyTracking() override { port_.StopDirtyTracking(); }
  void AddUnneededPages(size_t index, PageBitmap& into) override { port_.AddUnneededPages(index, into); }
  void InhibitBalloon() override { port_.InhibitBalloon(); }
  void AllowBalloon() override { port_.AllowBalloon(); }
  absl::Status Pause() override { return port_.Pause(); }
  absl::Status Resume() override { return port_.Resume(); }
  void StayPaused() override { port_.StayPaused(); }
  std::vector<pid_t> VcpuThreads() override { return port_.VcpuThreads(); }
  absl::Status SetThrottle(int percent) override { return port_.SetThrottle(percent); }
  absl::StatusOr<std::vector<uint8_t>> SaveState() override {
    if (attempt_.on_save) {
      attempt_.on_save(*session_);
    }
    auto blob = port_.SaveState();
    if (blob.ok() && attempt_.on_package) {
      attempt_.on_package(*blob);
    }
    return blob;
  }
  absl::Status ReleaseDisks() override {
    FERRITE_RETURN_IF_ERROR(port_.ReleaseDisks());
    if (attempt_.on_release) {
      attempt_.on_release();
    }
    return absl::OkStatus();
  }
  absl::Status AcquireDisks() override {
    if (attempt_.on_take_back) {
      attempt_.on_take_back();
    }
    return port_.AcquireDisks();
  }
  absl::Status PrepareGrant(const migration::MoveId& id, uint64_t epoch, absl::string_view where) override {
    return port_.PrepareGrant(id, epoch, where);
  }
  absl::Status RecordGrant(const migration::MoveId& id, uint64_t epoch, absl::string_view where) override {
    FERRITE_RETURN_IF_ERROR(port_.RecordGrant(id, epoch, where));
    if (attempt_.on_grant) {
      attempt_.on_grant();
    }
    return absl::OkStatus();
  }
  void Moved(absl::string_view where) override { port_.Moved(where); }
  std::vector<migration::OutgoingPart*> further_parts() override { return port_.further_parts(); }

 private:
  const Fd directory_;
  MachineSource port_;
  const MoveTry& attempt_;
  migration::Source* session_ = nullptr;
};

// As `receive` is told of the machine's own files, where the test says nothing of them.
ArrivalOptions WithFiles(ArrivalOptions options, const MachineConfig& config) {
  if (options.disk_from.empty()) {
    for (const DiskConfig* disk : config.all<DiskConfig>()) {
      options.disk_paths.emplace(disk->id, disk->path);
    }
  }
  if (options.boot_from.empty() && options.kernel_path.empty()) {
    options.kernel_path = config.kernel_path;
    options.initrd_path = config.initrd_path;
  }
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MovingPayload>> MovingPayload::Run(absl::string_view program, MachineConfig config) {
  std::unique_ptr<MovingPayload> moving(new MovingPayload);
  // Short: a socket's path has 107 bytes.
  char name[] = "/tmp/ferrite-move-XXXXXX";
  if (mkdtemp(name) == nullptr) {
    return ErrnoStatus("make a directory");
  }
  moving->directory_ = name;
  FERRITE_ASSIGN_OR_RETURN(moving->here_, PayloadMachine::Run(program, std::move(config)));
  return moving;
}

MovingPayload::~MovingPayload() {
  here_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

MoveResult MovingPayload::Move(const MoveTry& attempt) {
  MoveResult result;
  migration::Address address;
  if (attempt.tcp) {
    address = {.kind = migration::Address::Kind::kTcp, .host = "127.0.0.1", .port = "0", .path = ""};
  } else {
    address = {
        .kind = migration::Address::Kind::kUnix, .host = "", .port = "", .path = absl::StrCat(directory_, "/socket")};
  }
  auto there = PayloadMachine::Await();
  auto listener = migration::Listener::Create(address);
  if (!there.ok() || !listener.ok()) {
    result.source = there.ok() ? listener.status() : there.status();
    return result;
  }
  migration::Address target = (*listener)->address();
  const std::unique_ptr<migration::SocketAcceptor> acceptor =
      migration::AcceptorOf(*std::move(listener), {.security = attempt.destination_security});
  auto created = MachineArrival::Create({.kvm = (*there)->host().kvm,
                                         .loop = (*there)->host().loop,
                                         .console = &(*there)->host().console,
                                         .built =
                                             [&](Machine& machine) {
                                               machine.SetListener((*there)->Listener());
                                               if (attempt.built) {
                                                 attempt.built(machine);
                                               }
                                             }},
                                        WithFiles(attempt.arrival, here_->machine().config()));
  if (!created.ok()) {
    result.source = created.status();
    return result;
  }
  MachineArrival& arrival = **created;
  if (attempt.relayed) {
    auto relay = migration::Relay::Create(absl::StrCat(directory_, "/relay"), target);
    if (!relay.ok()) {
      result.source = relay.status();
      return result;
    }
    relay_ = *std::move(relay);
    target = relay_->address();
  }
  {
    auto destination = migration::Destination::Create(
        EngineHost(), arrival, {.silence = attempt.options.silence, .hold_for = attempt.hold_for});
    if (!destination.ok()) {
      result.source = destination.status();
      return result;
    }
    absl::Status received;
    Thread receiver = StartOrDie("test-receiver", [&] {
      received = (*destination)->Run(*acceptor);
      if (received.ok()) {
        (*destination)->Compact([] { return false; });
      }
    });
    // It may still wait for a source, also when an exception came out of the move, which should not.
    absl::Cleanup end = [&] {
      (void)(*destination)->Cancel();
      (*destination)->Leave();
    };
    const auto leave = [&](const migration::Address& to) { return MoveTo(to, attempt); };
    result = attempt.by_way_of ? attempt.by_way_of(target, leave) : leave(target);
    if (result.source.ok()) {
      std::move(end).Cancel();
    } else {
      std::move(end).Invoke();
    }
    receiver.Join();
    result.destination = received;
    result.destination_state = (*destination)->state();
  }
  relay_.reset();
  if (result.source.ok() && result.destination.ok()) {
    (*there)->Adopt(arrival.Take());
    here_ = *std::move(there);
  }
  return result;
}

MoveResult MovingPayload::MoveTo(const migration::Address& address, const MoveTry& attempt) {
  MoveResult result;
  HookedSource port(here_->machine(), directory_, attempt);
  migration::Source* running = nullptr;
  auto source =
      migration::Source::Create(EngineHost(), port, attempt.options, [&](const migration::MoveProgress& progress) {
        if (attempt.during) {
          attempt.during(*running, progress);
        }
      });
  if (!source.ok()) {
    result.source = source.status();
    return result;
  }
  running = source->get();
  port.SetSession(running);
  result.source = (*source)->Run(migration::OpenAt(address, RealClock(), attempt.source_security));
  result.source_state = (*source)->state();
  result.report = (*source)->report();
  return result;
}

}  // namespace ferrite

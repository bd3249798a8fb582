#include "tests/integration/payload_machine.h"

#include <capnp/message.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/fakes/test_thread.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {
namespace {

bool IsZero(const uint8_t* page) { return page[0] == 0 && std::memcmp(page, page + 1, kPageBytes - 1) == 0; }

// Calls `page(offset)` for the pages of the region that have memory. Holes are skipped: reading them would fill them.
template <typename F>
absl::Status ForEachPresentPage(const MemoryRegion& region, F page) {
  if (region.fd() < 0) {
    for (uint64_t offset = 0; offset < region.bytes(); offset += kPageBytes) {
      FERRITE_RETURN_IF_ERROR(page(offset));
    }
    return absl::OkStatus();
  }
  off_t at = 0;
  for (;;) {
    const off_t begin = lseek(region.fd(), at, SEEK_DATA);
    if (begin < 0) {
      return errno == ENXIO ? absl::OkStatus() : ErrnoStatus("seek to the data of a region");
    }
    const off_t end = lseek(region.fd(), begin, SEEK_HOLE);
    for (off_t offset = begin; offset < end; offset += kPageBytes) {
      FERRITE_RETURN_IF_ERROR(page(static_cast<uint64_t>(offset)));
    }
    at = end;
  }
}

absl::StatusOr<SavedPayload::Ram> CopyOut(const MemoryRegion& region) {
  SavedPayload::Ram ram{
      .region = region.name(), .bytes = region.bytes(), .memfd = Fd(memfd_create("saved", MFD_CLOEXEC))};
  if (!ram.memfd.valid() || ftruncate(ram.memfd.get(), static_cast<off_t>(region.bytes())) != 0) {
    return ErrnoStatus("make a file for saved memory");
  }
  FERRITE_RETURN_IF_ERROR(ForEachPresentPage(region, [&](uint64_t offset) {
    const uint8_t* page = region.guest_mapping().data() + offset;
    if (!IsZero(page) && pwrite(ram.memfd.get(), page, kPageBytes, static_cast<off_t>(offset)) != kPageBytes) {
      return ErrnoStatus("save a page");
    }
    return absl::OkStatus();
  }));
  return ram;
}

absl::Status CopyIn(const SavedPayload::Ram& ram, const MemoryRegion& region) {
  if (ram.region != region.name() || ram.bytes != region.bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("region ", region.name(), " is not the saved ", ram.region));
  }
  off_t at = 0;
  for (;;) {
    const off_t begin = lseek(ram.memfd.get(), at, SEEK_DATA);
    if (begin < 0) {
      return absl::OkStatus();
    }
    const off_t end = lseek(ram.memfd.get(), begin, SEEK_HOLE);
    for (off_t offset = begin; offset < end; offset += kPageBytes) {
      if (pread(ram.memfd.get(), region.guest_mapping().data() + offset, kPageBytes, offset) != kPageBytes) {
        return ErrnoStatus("load a page");
      }
    }
    at = end;
  }
}

}  // namespace

SavedPayload::SavedPayload() = default;
SavedPayload::~SavedPayload() = default;
SavedPayload::SavedPayload(SavedPayload&&) noexcept = default;
SavedPayload& SavedPayload::operator=(SavedPayload&&) noexcept = default;

std::string PayloadPath(absl::string_view program) {
  const char* source_dir = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  const std::string path = absl::StrCat("tests/guest/", program);
  return source_dir == nullptr || workspace == nullptr ? path : absl::StrCat(source_dir, "/", workspace, "/", path);
}

absl::StatusOr<uint64_t> ResidentBytes(GuestMemory& memory) {
  uint64_t total = 0;
  for (const auto& region : memory.regions()) {
    FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, region->ResidentBytes());
    total += bytes;
  }
  return total;
}

absl::StatusOr<std::unique_ptr<PayloadMachine>> PayloadMachine::Assemble(MachineConfig config,
                                                                         std::unique_ptr<GuestConsole> console) {
  auto result = std::unique_ptr<PayloadMachine>(new PayloadMachine());
  if (config.name.empty()) {
    config.name = "payload";
  }
  result->console_ = std::move(console);
  GuestConsole* const port = result->console_.get();
  port->SetStopped(false, "");
  FERRITE_ASSIGN_OR_RETURN(result->kvm_, Kvm::Open());
  FERRITE_ASSIGN_OR_RETURN(result->loop_, EventLoop::Create("devices"));
  FERRITE_ASSIGN_OR_RETURN(result->machine_, Machine::Create(config, *result->kvm_, *result->loop_, port));
  result->machine_->SetListener(result->Listener());
  return result;
}

std::function<void(const MachineEvent&)> PayloadMachine::Listener() {
  return [port = console_.get()](const MachineEvent& event) {
    if (event.kind == MachineEvent::Kind::kStopped) {
      port->SetStopped(true, event.text);
    }
  };
}

absl::StatusOr<std::unique_ptr<PayloadMachine>> PayloadMachine::Await() {
  auto result = std::unique_ptr<PayloadMachine>(new PayloadMachine());
  result->console_ = std::make_unique<GuestConsole>();
  FERRITE_ASSIGN_OR_RETURN(result->kvm_, Kvm::Open());
  FERRITE_ASSIGN_OR_RETURN(result->loop_, EventLoop::Create("devices"));
  return result;
}

absl::StatusOr<std::unique_ptr<PayloadMachine>> PayloadMachine::Create(absl::string_view program,
                                                                       MachineConfig config) {
  config.kernel_path = PayloadPath(program);
  return Assemble(std::move(config), std::make_unique<GuestConsole>());
}

absl::StatusOr<std::unique_ptr<PayloadMachine>> PayloadMachine::Run(absl::string_view program, MachineConfig config) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<PayloadMachine> result, Create(program, std::move(config)));
  FERRITE_RETURN_IF_ERROR(result->machine().Boot());
  FERRITE_RETURN_IF_ERROR(result->machine().Resume());
  return result;
}

absl::StatusOr<std::unique_ptr<PayloadMachine>> PayloadMachine::Load(SavedPayload saved, MachineConfig config) {
  config.kernel_path.clear();
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<PayloadMachine> result,
                           Assemble(std::move(config), std::move(saved.console)));
  const auto regions = result->memory().regions();
  if (regions.size() != saved.ram.size()) {
    return absl::InvalidArgumentError("the machine has not the regions that were saved");
  }
  for (size_t i = 0; i < regions.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(CopyIn(saved.ram[i], *regions[i]));
  }
  FERRITE_RETURN_IF_ERROR(result->machine().LoadState(saved.state->getRoot<state::Machine>().asReader()));
  return result;
}

PayloadMachine::~PayloadMachine() = default;

absl::StatusOr<GuestLine> PayloadMachine::WaitFor(absl::string_view event, absl::Duration timeout) {
  absl::StatusOr<GuestLine> line = console_->WaitFor(event, timeout);
  if (!absl::IsDeadlineExceeded(line.status())) {
    return line;
  }
  return absl::DeadlineExceededError(absl::StrCat(line.status().message(), DescribeVcpus()));
}

std::string PayloadMachine::DescribeVcpus() {
  capnp::MallocMessageBuilder state;
  if (!machine_->Pause().ok() || !machine_->Save(state.initRoot<state::Machine>()).ok()) {
    return absl::StrCat("; the machine is ", MachineStateName(machine_->state()));
  }
  std::string text;
  for (const auto vcpu : state.getRoot<state::Machine>().asReader().getVcpus()) {
    kvm_regs regs = {};
    std::memcpy(&regs, vcpu.getRegs().begin(), std::min(sizeof(regs), vcpu.getRegs().size()));
    absl::StrAppend(&text, "; vCPU ", vcpu.getIndex(), " mp_state ", vcpu.getMpState(), " rip ", absl::Hex(regs.rip),
                    " rsp ", absl::Hex(regs.rsp));
  }
  return text;
}

absl::StatusOr<GuestLine> PayloadMachine::Check() {
  FERRITE_RETURN_IF_ERROR(Send('c'));
  FERRITE_ASSIGN_OR_RETURN(GuestLine line, WaitFor("check"));
  if (line.Number("errors") != 0 || !console_->errors().empty()) {
    const std::vector<std::string> errors = console_->errors();
    return absl::DataLossError(absl::StrCat(line.text(), "; first: ", errors.empty() ? "none" : errors.front()));
  }
  return line;
}

absl::StatusOr<StopInfo> PayloadMachine::WaitUntilStopped(absl::Duration timeout) {
  TimedMutex mutex;
  bool stopped = false;
  bool late = false;
  StopInfo info;
  Thread waiter = StartOrDie("stop-waiter", [&] {
    StopInfo result = machine_->WaitUntilStopped();
    TimedMutexLock lock(&mutex);
    info = std::move(result);
    stopped = true;
  });
  {
    TimedMutexLock lock(&mutex);
    late = !mutex.AwaitFor(absl::Condition(&stopped), timeout);
  }
  if (late) {
    machine_->Stop();
  }
  waiter.Join();
  if (late) {
    return absl::DeadlineExceededError("the machine did not stop");
  }
  return info;
}

absl::StatusOr<SavedPayload> PayloadMachine::SaveAndDestroy(std::unique_ptr<PayloadMachine> machine) {
  SavedPayload saved;
  saved.state = std::make_unique<capnp::MallocMessageBuilder>();
  FERRITE_RETURN_IF_ERROR(machine->machine().Pause());
  FERRITE_RETURN_IF_ERROR(machine->machine().Save(saved.state->initRoot<state::Machine>()));
  for (const auto& region : machine->memory().regions()) {
    FERRITE_ASSIGN_OR_RETURN(SavedPayload::Ram ram, CopyOut(*region));
    saved.ram.push_back(std::move(ram));
  }
  machine->machine_.reset();
  saved.console = std::move(machine->console_);
  return saved;
}

}  // namespace ferrite

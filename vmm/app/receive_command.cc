#include "vmm/app/receive_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/byte_size.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "base/timed_mutex.h"
#include "migration/channel/rdma/rdma_rendezvous.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/channel/tls/tls_security.h"
#include "vmm/app/command_options.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/monitor.h"
#include "vmm/console/raw_terminal.h"
#include "vmm/control/machine_directory.h"
#include "vmm/move/arrivals.h"
#include "vmm/move/engine_host.h"
#include "vmm/move/host_verbs.h"
#include "vmm/move/machine_arrival.h"

namespace ferrite {
namespace {

// How long a move is waited for whose guest is to be ended. It ends by itself before, unless it is stuck.
constexpr absl::Duration kMovePatience = absl::Seconds(8);
// A guest that misses pages cannot always be stopped.
constexpr absl::Duration kStopPatience = absl::Seconds(2);

// Descriptors that the largest machine which may come has open here, with its move. The numbers were counted.
constexpr size_t MachineDescriptors(uint32_t cpus) {
  constexpr size_t kOfADisk = 18;  // of one that is copied; 8 of a shared one
  constexpr size_t kOfAnotherDevice = 7;
  constexpr size_t kOther = 32;  // the machine's own, userfaultfd, and what is open for a moment
  return cpus + kMaxDisks * kOfADisk + 2 * kOfAnotherDevice + 2 * migration::kMaxChannels + kOther;
}

absl::StatusOr<std::unique_ptr<migration::ChannelAcceptor>> AcceptorAt(
    std::unique_ptr<migration::Listener> listener, const ReceiveCommandOptions& options,
    std::shared_ptr<migration::StreamSecurity> security) {
  migration::SocketAcceptor::Options connections{.patience = options.patience,
                                                 .from = options.from,
                                                 .machine_descriptors = MachineDescriptors(options.max_cpus),
                                                 .security = std::move(security)};
  if (listener->address().kind == migration::Address::Kind::kRdma) {
    FERRITE_ASSIGN_OR_RETURN(migration::Verbs* const verbs, HostVerbs());
    FERRITE_ASSIGN_OR_RETURN(const std::vector<migration::VerbsDevice> devices, verbs->Devices());
    if (devices.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          listener->address().ToString(), ": this host has no RDMA device; see `ferrite doctor`, or listen at tcp:"));
    }
    return migration::RdmaAcceptor::Create(std::move(listener), std::move(connections), *verbs, options.rdma,
                                           EngineHost());
  }
  return migration::SocketAcceptor::Create(std::move(listener), std::move(connections), EngineHost());
}

absl::Status TellReady(const ReceiveCommandOptions& options, const migration::Address& address) {
  fmt::print("{} ({}) waits at {}\n", options.name, options.tls.on() ? "TLS" : "plain, without TLS",
             address.ToString());
  (void)fflush(stdout);
  if (options.ready_fd < 0) {
    return absl::OkStatus();
  }
  const std::string text = absl::StrCat(address.ToString(), "\n");
  if (write(options.ready_fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(absl::StrCat("--ready-fd ", options.ready_fd));
  }
  if (options.ready_fd > STDERR_FILENO) {
    close(options.ready_fd);
  }
  return absl::OkStatus();
}

// Whether the move is over; else the user, a client or the guest's own end asks for the end of the monitor.
bool WaitForArrival(Monitor& monitor, Incoming& incoming) {
  if (incoming.WaitForArrival(monitor.signals().fd(), monitor.ended().fd())) {
    return true;
  }
  if (pollfd signal = {monitor.signals().fd(), POLLIN, 0}; poll(&signal, 1, 0) == 1) {
    IfThereIsMemory([&] { Log().info("ending: {}", monitor.signals().Take()); });
    monitor.ended().Signal();
  }
  return false;
}

// Makes memory huge again that came in pieces, beside the guest and until `ended`. Without a thread it stays as it is.
Thread StartCompacting(Monitor& monitor, std::unique_ptr<Incoming> incoming, const std::atomic<bool>& ended) {
  Thread thread;
  IfThereIsMemory([&] {
    const std::shared_ptr<Incoming> arrived = std::move(incoming);
    auto started = EngineHost().threads.Start("compact", ThreadClass::kBulk, [&monitor, arrived, &ended] {
      IfThereIsMemory([&] {
        arrived->Compact([&ended] { return ended.load(); });
        monitor.SetArrival(arrived->Account());
      });
    });
    if (started.ok()) {
      thread = *std::move(started);
    }
  });
  return thread;
}

void LogWhoCame(const std::string& words) {
  IfThereIsMemory([&] { Log().info("from {}", words); });
}

void LogFilesReadAgain(const absl::Status& result) {
  IfThereIsMemory([&] {
    if (result.ok()) {
      Log().info("the TLS files were read again");
    } else {
      Log().warn("TLS goes on with the files that were read before: {}", std::string(result.message()));
    }
  });
}

absl::StatusOr<StopInfo> Receive(const ReceiveCommandOptions& options) {
  if (options.ready_fd >= 0 && fcntl(options.ready_fd, F_GETFD) < 0) {
    return ErrnoStatus(absl::StrCat("--ready-fd ", options.ready_fd));
  }
  // The address is told to people, who may be in another directory.
  FERRITE_ASSIGN_OR_RETURN(const migration::Address listen, AbsoluteAddress(options.listen));
  std::shared_ptr<migration::StreamSecurity> security;
  if (options.tls.on()) {
    FERRITE_ASSIGN_OR_RETURN(
        security, migration::TlsSecurity::Create(options.tls, migration::TlsSide::kDestination, listen,
                                                 migration::OnEachNewTls(EngineHost(), LogWhoCame), LogFilesReadAgain));
  }
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, Monitor::Create(options.name, options.monitor));
  for (const auto& [id, path] : options.disk_paths) {
    WarnOfOthersDisk(path, /*read_only=*/false);  // the source will say whether it is
  }
  for (const auto& [id, copy] : options.disk_copies) {
    if (copy.existing) {
      WarnOfOthersDisk(copy.path, /*read_only=*/false);
    }
  }
  const auto view = std::make_shared<ArrivalView>();
  FERRITE_ASSIGN_OR_RETURN(
      const auto arrival,
      MachineArrival::Create({.kvm = monitor->kvm(),
                              .loop = monitor->loop(),
                              .console = &monitor->console(),
                              .built =
                                  [&](Machine& machine) {
                                    machine.SetListener(monitor->Listener());
                                    monitor->ServeArriving(
                                        machine, [view] { return view->status(); },
                                        [view](Operation operation) { return view->Allows(operation); });
                                  }},
                             {.name = options.name,
                              .disk_paths = options.disk_paths,
                              .disk_from = options.disk_from,
                              .disk_copies = options.disk_copies,
                              .disk_copy_dir = options.disk_copy_dir,
                              .trust_disks = options.trust_disks,
                              .kernel_path = options.kernel_path,
                              .initrd_path = options.initrd_path,
                              .boot_from = options.boot_from,
                              .lock_memory = options.lock_memory,
                              .pin_memory = listen.kind == migration::Address::Kind::kRdma,
                              .dirty_ring = options.dirty_ring,
                              .limits = {.memory_bytes = options.max_memory_bytes,
                                         .cpus = options.max_cpus,
                                         .disk_bytes = options.max_disk_bytes}}));
  FERRITE_ASSIGN_OR_RETURN(auto listener, migration::Listener::Create(listen));
  const migration::Address address = listener->address();
  FERRITE_ASSIGN_OR_RETURN(auto acceptor, AcceptorAt(std::move(listener), options, std::move(security)));
  FERRITE_RETURN_IF_ERROR(monitor->Serve());
  // Clients go before a machine that did not arrive.
  const absl::Cleanup close = [&] { monitor->Close(); };
  FERRITE_ASSIGN_OR_RETURN(auto incoming,
                           Incoming::Start(*arrival, {.patience = options.patience}, std::move(acceptor), view));
  FERRITE_RETURN_IF_ERROR(TellReady(options, address));
  bool over = WaitForArrival(*monitor, *incoming);
  if (!over && incoming->End() == Incoming::Ending::kCancelled) {
    // The move may have failed by itself just before.
    const std::string why(incoming->result().message());
    incoming->Finish();
    return absl::CancelledError(absl::StrCat("ended before a machine arrived",
                                             absl::EndsWith(why, "cancelled") ? "" : absl::StrCat(": ", why)));
  }
  // A move that is not over by then is stuck: the machine ends here while its memory still comes, or its source is
  // silent.
  over = over || incoming->IsOverWithin(kMovePatience);
  if (over) {
    const absl::Status result = incoming->result();
    if (!incoming->RunsHere()) {
      incoming->Finish();
      return absl::Status(result.code(), absl::StrCat("no machine arrived: ", result.message()));
    }
    // The guest runs, and its source has let go of it: it stays, whatever is missing here for words.
    IfThereIsMemory([&] { monitor->SetArrival(incoming->Account()); });
    monitor->SetArrivedMachine(arrival->Take());
    if (result.ok()) {
      IfThereIsMemory([] { Log().info("the machine has arrived"); });
      // What the move needed goes with the thread.
      std::atomic<bool> ended = false;
      Thread compacting = StartCompacting(*monitor, std::move(incoming), ended);
      monitor->WaitForEnd();
      ended = true;
      compacting.Join();
      return monitor->Stop();
    }
    IfThereIsMemory([&] { Log().error("{}", std::string(result.message())); });
    monitor->WaitForEnd();
  }
  TimedNotification stopped;
  StopInfo info;
  Thread stopper;
  const absl::Status stops = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(stopper, Thread::Start("stop", [&] {
                               if (over) {
                                 info = monitor->Stop();
                               } else {
                                 arrival->machine()->Stop();
                                 monitor->Close();
                               }
                               stopped.Notify();
                             }));
    return absl::OkStatus();
  });
  if (!stops.ok()) {
    IfThereIsMemory([&] { Log().warn("{}", std::string(stops.message())); });
  }
  const bool is_stopped = stops.ok() && stopped.WaitFor(kStopPatience);
  if (!is_stopped || !over) {
    // Somebody waits for a page that does not come. To let them go on without it would let a device write to a disk
    // what the guest never meant: they end with the process.
    Log().warn(is_stopped ? "the guest was stopped while its memory was still coming: its monitor ends without the rest"
                          : "the guest cannot be stopped, as when it waits for memory that is missing: its monitor "
                            "ends without it");
    monitor->LeaveRunDir();
    RawTerminal::Restore();
    _exit(over || incoming->HasGuest() ? kExitOk : kExitFailure);
  }
  stopper.Join();
  incoming->Finish();
  return info;
}

class ReceiveCommand final : public CommandWith<ReceiveCommandOptions> {
 public:
  ReceiveCommand()
      : CommandWith({"receive", "Wait for a machine that moves here, then run it as `run` does",
                     "ferrite receive --name web1 --listen tcp:0.0.0.0:4000 --disk root=/images/root.img "
                     "--kernel vmlinuz"}) {}

  void AddTo(CLI::App& app) override {
    AddRunDir(app, options_.monitor.run_dir);
    app.add_option("--name", options_.name, "The machine's name here")->required()->type_name("NAME");
    app.add_option("--listen", words_.listen, "tcp:HOST:PORT (port 0: any free one), rdma:HOST:PORT or unix:PATH")
        ->required()
        ->type_name("ADDRESS");
    Repeatable(app.add_option("--disk", words_.disks, "ID=PATH: where a disk is here; repeatable"))
        ->type_name("ID=PATH");
    Repeatable(app.add_option("--disk-from", options_.disk_from,
                              "Take other disks where they are at the source, if that is below DIR [none]; repeatable"))
        ->type_name("DIR");
    Repeatable(
        app.add_option("--disk-copy", words_.disk_copies,
                       "ID=PATH[,existing]: a disk is copied to here while the guest runs, to a file that is made "
                       "or, with `existing`, over what is there; repeatable"))
        ->type_name("ID=PATH");
    app.add_option("--disk-copy-dir", options_.disk_copy_dir,
                   "The disks that are not named are copied to files that are made here, NAME-ID.img [they are not]")
        ->type_name("DIR");
    app.add_flag("--trust-disks", options_.trust_disks,
                 "Take the disks of --disk also where it shows that nobody has them open");
    app.add_option("--kernel", options_.kernel_path,
                   "What a reset boots here [the source's kernel and initrd, if --boot-from allows them]")
        ->type_name("FILE");
    app.add_option("--initrd", options_.initrd_path, "The initial RAM disk of that kernel [none]")->type_name("FILE");
    Repeatable(app.add_option("--boot-from", options_.boot_from,
                              "Without --kernel: boot the source's kernel and initrd, if the same files are below DIR "
                              "[none]; repeatable"))
        ->type_name("DIR");
    app.add_option("--console", words_.console,
                   "Serial console: stdio, none, file:PATH[,max=SIZE] or unix:PATH [stdio]")
        ->type_name("SINK");
    app.add_flag("--mlock", options_.lock_memory, "Lock the guest's memory in RAM once it is here");
    app.add_flag("--dirty-ring", options_.dirty_ring,
                 "Track dirty pages with KVM's ring in place of its log when it moves on");
    Repeatable(app.add_option("--from", words_.from,
                              "Let in connections of 192.0.2.0/24 or 2001:db8::/32 alone; repeatable [everybody's]"))
        ->type_name("ADDRESS/BITS");
    AddTls(app, options_.tls, TlsOf::kDestination);
    AddRdma(app, words_.rdma);
    app.add_option("--max-mem", words_.max_memory, "Refuse a machine with more memory [what this host has]")
        ->type_name("SIZE");
    app.add_option("--max-disk", words_.max_disk, "Refuse to copy a larger disk [4T]")->type_name("SIZE");
    app.add_option("--max-cpus", options_.max_cpus, "Refuse a machine with more processors, 1 to 32 [32]")
        ->type_name("N")
        ->check(InRange(1, static_cast<int>(kMaxCpus)));
    app.add_option("--patience", words_.patience,
                   "How long a source may take to say what machine it brings, and for each step until memory comes "
                   "[60s]")
        ->type_name("TIME");
    app.add_option("--ready-fd", options_.ready_fd,
                   "Write the address to this file descriptor and close it when the monitor is ready")
        ->type_name("N")
        ->check(InRange(0, 1 << 20));
    AddLogAndDebuggable(app, options_.monitor);
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(Annotate(CheckMachineName(options_.name), "--name"));
    auto listen = migration::ParseAddress(words_.listen);
    FERRITE_RETURN_IF_ERROR(Annotate(listen.status(), "--listen"));
    options_.listen = *std::move(listen);
    for (const std::string& text : words_.disks) {
      const std::pair<std::string, std::string> disk = absl::StrSplit(text, absl::MaxSplits('=', 1));
      if (disk.first.empty() || disk.second.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("--disk: \"", absl::CHexEscape(text), "\": write ID=PATH, as --disk root=/images/root.img"));
      }
      if (!options_.disk_paths.insert(disk).second) {
        return absl::InvalidArgumentError(absl::StrCat("--disk: two paths for the id ", disk.first));
      }
    }
    FERRITE_RETURN_IF_ERROR(ReadDiskCopies());
    if (!words_.from.empty() && options_.listen.kind == migration::Address::Kind::kUnix) {
      return absl::InvalidArgumentError(
          "--from: a unix socket is its owner's alone; this is for --listen tcp:HOST:PORT");
    }
    for (const std::string& text : words_.from) {
      auto range = migration::AddressRange::Parse(text);
      FERRITE_RETURN_IF_ERROR(Annotate(range.status(), "--from"));
      options_.from.push_back(*range);
    }
    if (!words_.max_memory.empty()) {
      auto bytes = ParseByteSize(words_.max_memory);
      FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), "--max-mem"));
      options_.max_memory_bytes = *bytes;
    }
    if (!words_.max_disk.empty()) {
      auto bytes = ParseByteSize(words_.max_disk);
      FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), "--max-disk"));
      options_.max_disk_bytes = *bytes;
    }
    if (!options_.initrd_path.empty() && options_.kernel_path.empty()) {
      return absl::InvalidArgumentError("--initrd: of which kernel? Give --kernel, too");
    }
    FERRITE_RETURN_IF_ERROR(ReadPatience(words_.patience, options_.patience));
    FERRITE_RETURN_IF_ERROR(FinishTls(options_.tls));
    FERRITE_RETURN_IF_ERROR(FinishRdma(words_.rdma, options_.listen, options_.tls, options_.rdma));
    auto console = ParseConsoleSink(words_.console.empty() ? "stdio" : words_.console);
    FERRITE_RETURN_IF_ERROR(Annotate(console.status(), "--console"));
    options_.monitor.console = *std::move(console);
    return absl::OkStatus();
  }

  int Run(int64_t /*started_ns*/) override {
    const auto info = Receive(options_);
    return info.ok() ? ReportEnd(options_.name, *info) : Fail(info.status(), kExitFailure);
  }
  int descriptor() const override { return options_.ready_fd; }

 private:
  absl::Status ReadDiskCopies() {
    for (const std::string& text : words_.disk_copies) {
      const std::pair<std::string, std::string> disk = absl::StrSplit(text, absl::MaxSplits('=', 1));
      ArrivalOptions::DiskCopy copy{.path = disk.second};
      if (absl::EndsWith(copy.path, ",existing")) {
        copy.path.resize(copy.path.rfind(','));
        copy.existing = true;
      }
      if (disk.first.empty() || copy.path.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("--disk-copy: \"", absl::CHexEscape(text),
                                                       "\": write ID=PATH[,existing], as --disk-copy "
                                                       "root=/images/root.img"));
      }
      if (options_.disk_paths.contains(disk.first) || !options_.disk_copies.emplace(disk.first, copy).second) {
        return absl::InvalidArgumentError(absl::StrCat("--disk-copy: two paths for the id ", disk.first));
      }
    }
    return absl::OkStatus();
  }

  // Words that are more than a string or a number.
  struct Words {
    std::string listen;
    std::vector<std::string> from;
    std::string max_memory;
    std::string max_disk;
    std::vector<std::string> disks;
    std::vector<std::string> disk_copies;
    std::string console;
    std::string patience;
    RdmaWords rdma;
  };

  Words words_;
};

}  // namespace

std::unique_ptr<Command> MakeReceiveCommand() { return std::make_unique<ReceiveCommand>(); }

}  // namespace ferrite

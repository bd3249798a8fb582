#include "tests/fakes/network.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/status.h"
#include "tests/fakes/child_process.h"

namespace ferrite {
namespace {

// `command` is words, run to its end; its output is returned.
absl::StatusOr<std::string> Run(absl::string_view command) {
  const std::vector<std::string> words = absl::StrSplit(command, ' ', absl::SkipEmpty());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return ErrnoStatus("pipe");
  }
  const Fd out(ends[0]);
  Fd in(ends[1]);
  FERRITE_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(words, {.output = in.get(), .error = in.get()}));
  in = Fd();
  std::string text;
  char piece[4096];
  for (ssize_t n = 0; (n = read(out.get(), piece, sizeof(piece))) > 0;) {
    text.append(piece, static_cast<size_t>(n));
  }
  FERRITE_ASSIGN_OR_RETURN(const ChildEnd end, child.Wait(absl::Seconds(10)));
  if (!end.exited || end.number != 0) {
    return absl::InternalError(absl::StrCat(command, ": ", text));
  }
  return text;
}

absl::Status Do(absl::string_view command) { return Run(command).status(); }

absl::Status DoAll(std::initializer_list<std::string> commands) {
  for (const std::string& command : commands) {
    FERRITE_RETURN_IF_ERROR(Do(command));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> Network::Create() {
  static std::atomic<int> number{0};
  std::unique_ptr<Network> network(new Network(absl::StrCat("ferrite-", getpid(), "-", ++number)));
  FERRITE_RETURN_IF_ERROR(network->SetUp());
  return network;
}

absl::Status Network::SetUp() const {
  const std::string in_here = absl::StrCat("/sbin/ip -n ", here_, " ");
  const std::string in_there = absl::StrCat("/sbin/ip -n ", there_, " ");
  // What a process of the same number left behind that was killed.
  (void)Do(absl::StrCat("/sbin/ip netns delete ", here_));
  (void)Do(absl::StrCat("/sbin/ip netns delete ", there_));
  return DoAll({absl::StrCat("/sbin/ip netns add ", here_), absl::StrCat("/sbin/ip netns add ", there_),
                absl::StrCat(in_here, "link add cable type veth peer name cable netns ", there_),
                in_here + "addr add 10.77.0.1/24 dev cable", in_there + "addr add 10.77.0.2/24 dev cable",
                in_here + "link set cable up", in_there + "link set cable up"});
}

Network::~Network() {
  (void)Do(absl::StrCat("/sbin/ip netns delete ", here_));
  (void)Do(absl::StrCat("/sbin/ip netns delete ", there_));
}

void Network::Enter(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
    _exit(125);
  }
}

absl::Status Network::RuleAfter(uint64_t bytes, bool leaving, Verdict verdict) const {
  const std::string nft = absl::StrCat("/sbin/ip netns exec ", here_, " /usr/sbin/nft ");
  // A segment that is reset has to be one of TCP.
  return DoAll(
      {nft + "add table ip faults", nft + "add counter ip faults met",
       absl::StrCat(nft, "add chain ip faults packets { type filter hook ", leaving ? "output" : "input",
                    " priority 0 ; }"),
       absl::StrCat(nft, "add rule ip faults packets ip protocol tcp quota over ", bytes, " bytes counter name met ",
                    verdict == Verdict::kDropped ? "drop" : "reject with tcp reset")});
}

bool Network::Met() const {
  const auto counters = Run(absl::StrCat("/sbin/ip netns exec ", here_, " /usr/sbin/nft list counters"));
  return counters.ok() && absl::StrContains(*counters, "packets") && !absl::StrContains(*counters, "packets 0 ");
}

absl::Status Network::RemoveRule() const {
  return Do(absl::StrCat("/sbin/ip netns exec ", here_, " /usr/sbin/nft delete table ip faults"));
}

absl::Status Network::PullCable() const { return Do(absl::StrCat("/sbin/ip -n ", here_, " link set cable down")); }
absl::Status Network::PlugCable() const { return Do(absl::StrCat("/sbin/ip -n ", here_, " link set cable up")); }

absl::Status Network::MoveThere() const {
  // In this order: a second address of a network goes with the first one.
  return DoAll({absl::StrCat("/sbin/ip -n ", there_, " addr delete 10.77.0.2/24 dev cable"),
                absl::StrCat("/sbin/ip -n ", there_, " addr add 10.77.0.3/24 dev cable")});
}

}  // namespace ferrite

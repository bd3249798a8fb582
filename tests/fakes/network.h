// Two hosts and a cable between them, as network namespaces, for tests that break the network for real.
#ifndef FERRITE_TESTS_FAKES_NETWORK_H_
#define FERRITE_TESTS_FAKES_NETWORK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Namespaces and their ends of a veth pair, "here" and "there", which are 10.77.0.1 and 10.77.0.2. Needs root, ip(8)
// and nft(8). Threads: the test's.
class Network {
 public:
  static absl::StatusOr<std::unique_ptr<Network>> Create();
  ~Network();

  // The calling process is on that host from here on: for a child, before its program runs.
  void EnterHere() const { Enter(here_path_); }
  void EnterThere() const { Enter(there_path_); }

  // What happens to packets that leave here, or come here, behind so many bytes.
  enum class Verdict { kDropped, kReset };
  absl::Status RuleAfter(uint64_t bytes, bool leaving, Verdict verdict) const;
  // Whether a packet met the rule.
  bool Met() const;
  absl::Status RemoveRule() const;

  absl::Status PullCable() const;
  absl::Status PlugCable() const;
  // The host there has 10.77.0.3 from here on, and 10.77.0.2 no more.
  absl::Status MoveThere() const;

 private:
  explicit Network(const std::string& name)
      : here_(name + "-here"),
        there_(name + "-there"),
        here_path_("/run/netns/" + here_),
        there_path_("/run/netns/" + there_) {}
  // Takes no memory: a child of several threads has none.
  static void Enter(const std::string& path);
  absl::Status SetUp() const;

  const std::string here_;
  const std::string there_;
  const std::string here_path_;
  const std::string there_path_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_NETWORK_H_

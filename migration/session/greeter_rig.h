// A greeter for its tests, and those who come to it.
#ifndef FERRITE_MIGRATION_SESSION_GREETER_RIG_H_
#define FERRITE_MIGRATION_SESSION_GREETER_RIG_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/api/machine_spec.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/session/greeter.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {

struct GreeterRigSetup {
  const Clock& clock = RealClock();
  size_t most = 8;
  std::function<void()> on_news = [] {};
  std::function<void(const absl::Status&)> on_lost = [](const absl::Status&) {};
};

// Whoever comes has an hour. Threads: the test's.
class GreeterRig {
 public:
  explicit GreeterRig(const GreeterRigSetup& setup = {})
      : host_(setup.clock),
        drops_(host_.get()),
        greeter_({.patience = absl::Hours(1), .most = setup.most}, host_.get(), drops_, setup.on_news, setup.on_lost) {}

  Greeter& greeter() { return greeter_; }
  const KeptLog& log() const { return host_.log(); }

  void Admit(std::unique_ptr<Stream> stream, const std::string& origin = "here") {
    greeter_.Admit(std::make_unique<StreamControlChannel>(std::move(stream), host_.get().clock), origin, kScriptedMove);
  }
  // The end of one that connects.
  std::unique_ptr<Stream> Come(const std::string& origin = "here") {
    auto ends = *MakeStreamPair();
    Admit(std::move(ends.first), origin);
    return std::move(ends.second);
  }
  void SayHello(Stream& stream) { SendHello(agreements_[&stream], stream); }
  // After SayHello().
  void BeWelcomed(Stream& stream) { HearWelcome(agreements_[&stream], stream); }
  // All three.
  std::unique_ptr<Stream> ComeAndBeWelcomed(const std::string& origin = "here") {
    std::unique_ptr<Stream> stream = Come(origin);
    SayHello(*stream);
    BeWelcomed(*stream);
    return stream;
  }
  void SayMachine(Stream& stream,
                  const MachineSpec& spec = {.regions = {{.name = "ram", .bytes = 4096, .page_bytes = 4096}}}) {
    SendMachine(agreements_[&stream], stream, spec);
  }
  const ScriptedAgreement& agreement(const Stream& stream) { return agreements_[&stream]; }

 private:
  const TestHost host_;
  DropLog drops_;
  std::map<const Stream*, ScriptedAgreement> agreements_;
  Greeter greeter_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_GREETER_RIG_H_

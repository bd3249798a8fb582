// A machine's moves that do nothing: what was asked for is noted.
#ifndef FERRITE_TESTS_FAKES_SCRIPTED_MOVER_H_
#define FERRITE_TESTS_FAKES_SCRIPTED_MOVER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "migration/api/move_options.h"
#include "migration/api/tls_options.h"
#include "vmm/control/move_port.h"

namespace ferrite {

// Threads: any.
class ScriptedMover final : public MovePort {
 public:
  // What a mirror is told.
  void Allow(const absl::Status& allows) {
    const absl::MutexLock lock(&mutex_);
    allows_ = allows;
  }
  // "tcp:b:1", "tcp:b:1 by /certificates", "tcp:b:1 by /keys.psk, named b.example", "recover tcp:b:1".
  std::vector<std::string> moves() const {
    const absl::MutexLock lock(&mutex_);
    return moves_;
  }

  absl::Status Start(const std::string& where, const migration::MoveOptions& /*options*/,
                     const migration::TlsOptions& tls) override {
    return Note(absl::StrCat(where, WordsOf(tls)));
  }
  MoveStatus status() const override { return {}; }
  MoveStatus arrival() const override { return {}; }
  absl::Status Cancel() override { return absl::OkStatus(); }
  absl::Status StartPostcopy() override { return absl::OkStatus(); }
  absl::Status Recover(const std::string& where, const migration::TlsOptions& tls) override {
    return Note(absl::StrCat("recover ", where, WordsOf(tls)));
  }
  absl::Status TakeBack(bool /*force*/) override { return absl::OkStatus(); }
  absl::Status Allows(Operation operation, bool /*force*/) const override {
    const absl::MutexLock lock(&mutex_);
    return operation == Operation::kMirror ? allows_ : absl::OkStatus();
  }
  void GiveUp() override {}

 private:
  static std::string WordsOf(const migration::TlsOptions& tls) {
    return absl::StrCat(tls.on() ? " by " : "", tls.directory, tls.psk_file,
                        tls.hostname.empty() ? "" : absl::StrCat(", named ", tls.hostname));
  }
  absl::Status Note(std::string what) {
    const absl::MutexLock lock(&mutex_);
    moves_.push_back(std::move(what));
    return absl::OkStatus();
  }

  mutable absl::Mutex mutex_;
  absl::Status allows_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> moves_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SCRIPTED_MOVER_H_

#include "vmm/move/arrivals.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/poll.h"
#include "base/status.h"
#include "vmm/move/engine_host.h"

namespace ferrite {
namespace {

MoveStatus StatusOf(const migration::Destination& session) {
  MoveStatus status;
  status.number = 1;
  status.guest = GuestPlace::kHereRunning;
  status.progress.state = session.state();
  status.progress.granted_for = session.has_guest_for();
  status.report = session.report();
  return status;
}

}  // namespace

void ArrivalView::Show(const migration::Destination* session) {
  const absl::MutexLock lock(&mutex_);
  session_ = session;
}

MoveStatus ArrivalView::status() const {
  const absl::MutexLock lock(&mutex_);
  return session_ == nullptr ? MoveStatus() : StatusOf(*session_);
}

absl::Status ArrivalView::Allows(Operation operation) const {
  const absl::MutexLock lock(&mutex_);
  if (operation == Operation::kStop ||
      (session_ != nullptr && session_->HasGuest(/*whole=*/operation != Operation::kSetBalloon))) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", OperationName(operation), ": the machine is still arriving here"));
}

Incoming::Incoming(EventFd signal, std::unique_ptr<migration::Destination> session,
                   std::unique_ptr<migration::ChannelAcceptor> acceptor, std::shared_ptr<ArrivalView> view)
    : signal_(std::move(signal)), session_(std::move(session)), acceptor_(std::move(acceptor)), view_(std::move(view)) {
  view_->Show(session_.get());
}

absl::StatusOr<std::unique_ptr<Incoming>> Incoming::Start(migration::MachineBuilder& builder,
                                                          const migration::Destination::Options& options,
                                                          std::unique_ptr<migration::ChannelAcceptor> acceptor,
                                                          std::shared_ptr<ArrivalView> view) {
  FERRITE_ASSIGN_OR_RETURN(EventFd signal, EventFd::Create());
  FERRITE_ASSIGN_OR_RETURN(auto session, migration::Destination::Create(EngineHost(), builder, options));
  std::unique_ptr<Incoming> incoming(
      new Incoming(std::move(signal), std::move(session), std::move(acceptor), std::move(view)));
  FERRITE_ASSIGN_OR_RETURN(incoming->thread_,
                           Thread::Start("receive", [incoming = incoming.get()] { incoming->Run(); }));
  return incoming;
}

Incoming::~Incoming() {
  // Too late is no error.
  IfThereIsMemory([this] { (void)session_->Cancel(); });
  session_->Leave();
  thread_.Join();
  view_->Show(nullptr);
}

void Incoming::Run() {
  result_ = CatchOutOfMemory([this] { return session_->Run(*acceptor_); });
  over_.Notify();
  signal_.Signal();
}

bool Incoming::WaitForArrival(int end, int other_end) {
  pollfd polled[] = {{signal_.fd(), POLLIN, 0}, {end, POLLIN, 0}, {other_end, POLLIN, 0}};
  while (PollFor(polled, absl::InfiniteDuration()) == 0) {
  }
  return polled[0].revents != 0;
}

Incoming::Ending Incoming::End() {
  if (CatchOutOfMemory([this] { return session_->Cancel(); }).ok()) {
    return Ending::kCancelled;
  }
  session_->Leave();
  return Ending::kTakenOver;
}

const absl::Status& Incoming::result() {
  (void)over_.WaitFor(absl::InfiniteDuration());
  return result_;
}

bool Incoming::RunsHere() { return result().ok() || session_->state() == migration::MoveState::kPostcopyPaused; }

bool Incoming::HasGuest() const {
  switch (session_->state()) {
    case migration::MoveState::kPostcopyActive:
    case migration::MoveState::kPostcopyPaused:
    case migration::MoveState::kPostcopyRecover:
    case migration::MoveState::kCompleted:
      return true;
    default:
      return false;
  }
}

MoveStatus Incoming::Account() {
  MoveStatus account = StatusOf(*session_);
  account.over = true;
  account.result = result();
  return account;
}

void Incoming::Finish() {
  thread_.Join();
  acceptor_.reset();
}

}  // namespace ferrite

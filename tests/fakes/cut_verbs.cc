#include "tests/fakes/cut_verbs.h"

#include "base/status.h"

namespace ferrite::migration {

class CutVerbs::Pair final : public QueuePair {
 public:
  Pair(CutVerbs& verbs, std::unique_ptr<QueuePair> pair) : verbs_(verbs), pair_(std::move(pair)) {
    const absl::MutexLock lock(&verbs_.mutex_);
    verbs_.pairs_.insert(pair_.get());
  }
  ~Pair() override {
    const absl::MutexLock lock(&verbs_.mutex_);
    verbs_.pairs_.erase(pair_.get());
  }

  absl::Status PostWrite(uint64_t id, const LocalPiece& from, const RemotePiece& to) override {
    verbs_.writes_++;
    return pair_->PostWrite(id, from, to);
  }
  absl::Status PostRead(uint64_t id, const LocalPiece& into, const RemotePiece& from) override {
    verbs_.reads_++;
    return pair_->PostRead(id, into, from);
  }
  absl::Status PostSend(uint64_t id, const LocalPiece& message) override { return pair_->PostSend(id, message); }
  absl::Status PostReceive(uint64_t id, const LocalPiece& into) override { return pair_->PostReceive(id, into); }
  absl::StatusOr<size_t> TakeCompletions(std::span<Completion> into) override { return pair_->TakeCompletions(into); }
  int fd() const override { return pair_->fd(); }
  absl::Status Arm() override { return pair_->Arm(); }
  void Break() override { pair_->Break(); }
  bool broken() const override { return pair_->broken(); }

 private:
  CutVerbs& verbs_;
  const std::unique_ptr<QueuePair> pair_;
};

class CutVerbs::QueuePairs final : public QueuePairListener {
 public:
  QueuePairs(CutVerbs& verbs, std::unique_ptr<QueuePairListener> listener)
      : verbs_(verbs), listener_(std::move(listener)) {}
  uint16_t port() const override { return listener_->port(); }
  absl::StatusOr<std::unique_ptr<QueuePair>> Accept(absl::string_view greeting, const QueuePairTerms& terms,
                                                    MonotonicTime deadline, const EventFd& cancel) override {
    FERRITE_ASSIGN_OR_RETURN(auto pair, listener_->Accept(greeting, terms, deadline, cancel));
    return verbs_.Keep(std::move(pair));
  }

 private:
  CutVerbs& verbs_;
  const std::unique_ptr<QueuePairListener> listener_;
};

class CutVerbs::Domain final : public VerbsDomain {
 public:
  Domain(CutVerbs& verbs, std::shared_ptr<VerbsDomain> domain) : verbs_(verbs), domain_(std::move(domain)) {}
  absl::StatusOr<std::unique_ptr<RegisteredMemory>> Register(std::span<uint8_t> memory, MemoryAccess access) override {
    return domain_->Register(memory, access);
  }
  absl::StatusOr<std::unique_ptr<QueuePairListener>> Listen() override {
    FERRITE_ASSIGN_OR_RETURN(auto listener, domain_->Listen());
    return std::make_unique<QueuePairs>(verbs_, std::move(listener));
  }
  absl::StatusOr<std::unique_ptr<QueuePair>> Connect(uint16_t port, absl::string_view greeting,
                                                     const QueuePairTerms& terms, MonotonicTime deadline,
                                                     const EventFd& cancel) override {
    FERRITE_ASSIGN_OR_RETURN(auto pair, domain_->Connect(port, greeting, terms, deadline, cancel));
    return verbs_.Keep(std::move(pair));
  }
  uint64_t most_registration() const override { return domain_->most_registration(); }

 private:
  CutVerbs& verbs_;
  const std::shared_ptr<VerbsDomain> domain_;
};

std::unique_ptr<QueuePair> CutVerbs::Keep(std::unique_ptr<QueuePair> pair) {
  return std::make_unique<Pair>(*this, std::move(pair));
}

size_t CutVerbs::CutAll() {
  const absl::MutexLock lock(&mutex_);
  for (QueuePair* const pair : pairs_) {
    pair->Break();
  }
  return pairs_.size();
}

absl::StatusOr<std::shared_ptr<VerbsDomain>> CutVerbs::Open(absl::string_view host, End end, MonotonicTime deadline,
                                                            const EventFd& cancel) {
  FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<VerbsDomain> domain, verbs_->Open(host, end, deadline, cancel));
  return std::make_shared<Domain>(*this, std::move(domain));
}

}  // namespace ferrite::migration

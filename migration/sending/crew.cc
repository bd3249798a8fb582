#include "migration/sending/crew.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<Crew>> Crew::Create(ThreadMaker& threads, absl::string_view name, ThreadClass its_class,
                                                   size_t count) {
  std::unique_ptr<Crew> crew(new Crew(count));
  // One that started is never the one that there is no room for.
  crew->threads_.reserve(count);
  for (size_t index = 0; index < count; ++index) {
    FERRITE_ASSIGN_OR_RETURN(Thread thread, threads.Start(absl::StrCat(name, "-", index), its_class,
                                                          [crew = crew.get(), index] { crew->Work(index); }));
    crew->threads_.push_back(std::move(thread));
  }
  return crew;
}

Crew::~Crew() {
  {
    const absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  threads_.clear();
}

void Crew::Begin(Job job) {
  const absl::MutexLock lock(&mutex_);
  FERRITE_CHECK(busy_ == 0);
  job_ = std::move(job);
  ++serial_;
  busy_ = results_.size();
}

absl::Status Crew::Await() {
  const absl::MutexLock lock(&mutex_);
  const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return busy_ == 0; };
  mutex_.Await(absl::Condition(&done));
  for (const absl::Status& result : results_) {
    FERRITE_RETURN_IF_ERROR(result);
  }
  return absl::OkStatus();
}

void Crew::Work(size_t index) {
  uint64_t done = 0;
  while (true) {
    const Job* job = nullptr;
    {
      const absl::MutexLock lock(&mutex_);
      const auto has_news = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || serial_ != done; };
      mutex_.Await(absl::Condition(&has_news));
      if (serial_ == done) {
        return;
      }
      done = serial_;
      // It stays until all are done.
      job = &job_;
    }
    absl::Status result = CatchOutOfMemory([&] { return (*job)(index); });
    const absl::MutexLock lock(&mutex_);
    results_[index] = std::move(result);
    --busy_;
  }
}

}  // namespace ferrite::migration

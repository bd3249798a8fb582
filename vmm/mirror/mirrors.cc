#include "vmm/mirror/mirrors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite {

Mirrors::Mirrors(MachineDisks& disks, MirrorJob::Listener listener) : disks_(disks), listener_(std::move(listener)) {}

Mirrors::~Mirrors() {
  BeginEnd();
  // Without the mutex, which those that are being opened want.
  Jobs all = All();
  for (std::shared_ptr<MirrorJob>& job : all) {
    (void)job->AwaitOver(absl::InfiniteDuration());
  }
}

void Mirrors::Start(const MirrorRequest& request, Started started) {
  const absl::Status refused = Open(request, [this, started](MirrorJob& job, const absl::Status& begun) {
    Note(job, begun);
    started(begun.ok() ? absl::StatusOr<uint64_t>(job.number()) : begun);
  });
  if (!refused.ok()) {
    started(refused);
  }
}

absl::Status Mirrors::Open(const MirrorRequest& request, std::function<void(MirrorJob&, const absl::Status&)> begun) {
  FERRITE_RETURN_IF_ERROR(disks_.CheckDisk(request.disk));
  Jobs gone;
  const absl::MutexLock lock(&mutex_);
  gone.swap(refused_);
  if (ending_) {
    return absl::UnavailableError("this machine's monitor is ending");
  }
  for (const Jobs* jobs : {&opening_, &last_}) {
    const auto before = FindIn(*jobs, request.disk);
    if (before == nullptr) {
      continue;
    }
    if (const MirrorStatus status = before->status(); !status.over) {
      return absl::FailedPreconditionError(absl::StrCat("disk ", request.disk, " is being mirrored to ", status.target,
                                                        " already; `ferrite mirror NAME ", request.disk,
                                                        " --cancel` ends that"));
    }
  }
  FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<MirrorJob> job, MirrorJob::Create(disks_, request, number_ + 1, listener_));
  // Its thread has the mutex after this.
  FERRITE_RETURN_IF_ERROR(
      job->Start([begun = std::move(begun), job = job.get()](const absl::Status& status) { begun(*job, status); }));
  ++number_;
  opening_.push_back(std::move(job));
  return absl::OkStatus();
}

void Mirrors::Note(MirrorJob& job, const absl::Status& begun) {
  Jobs gone;
  const absl::MutexLock lock(&mutex_);
  const auto is_it = [&job](const auto& other) { return other.get() == &job; };
  const auto found = std::find_if(opening_.begin(), opening_.end(), is_it);
  std::shared_ptr<MirrorJob> own = *found;
  opening_.erase(found);
  if (!begun.ok()) {
    refused_.push_back(std::move(own));
    return;
  }
  const auto before =
      std::find_if(last_.begin(), last_.end(), [&job](const auto& other) { return other->disk() == job.disk(); });
  if (before != last_.end()) {
    gone.push_back(std::move(*before));
    last_.erase(before);
  }
  const auto behind =
      std::find_if(last_.begin(), last_.end(), [&job](const auto& other) { return other->number() > job.number(); });
  last_.insert(behind, std::move(own));
}

std::vector<MirrorStatus> Mirrors::List() const {
  Jobs jobs;
  {
    const absl::MutexLock lock(&mutex_);
    jobs = last_;
  }
  std::vector<MirrorStatus> all;
  all.reserve(jobs.size());
  for (const auto& job : jobs) {
    all.push_back(job->status());
  }
  return all;
}

std::shared_ptr<MirrorJob> Mirrors::FindIn(const Jobs& among, absl::string_view disk) {
  const auto found = std::find_if(among.begin(), among.end(), [disk](const auto& job) { return job->disk() == disk; });
  return found == among.end() ? nullptr : *found;
}

std::shared_ptr<MirrorJob> Mirrors::LastOf(absl::string_view disk, const Done& done) const {
  {
    const absl::MutexLock lock(&mutex_);
    for (const Jobs* jobs : {&opening_, &last_}) {
      if (auto job = FindIn(*jobs, disk); job != nullptr) {
        return job;
      }
    }
  }
  const absl::Status found = disks_.CheckDisk(disk);
  done(found.ok() ? absl::FailedPreconditionError(absl::StrCat("disk ", disk, " is not being mirrored")) : found);
  return nullptr;
}

Mirrors::Jobs Mirrors::All() const {
  const absl::MutexLock lock(&mutex_);
  Jobs all = opening_;
  all.insert(all.end(), last_.begin(), last_.end());
  return all;
}

absl::StatusOr<MirrorStatus> Mirrors::Status(absl::string_view disk) const {
  std::shared_ptr<MirrorJob> job;
  {
    const absl::MutexLock lock(&mutex_);
    job = FindIn(last_, disk);
  }
  if (job != nullptr) {
    return job->status();
  }
  FERRITE_RETURN_IF_ERROR(disks_.CheckDisk(disk));
  return MirrorStatus();
}

void Mirrors::Complete(absl::string_view disk, Done done) {
  if (const auto job = LastOf(disk, done); job != nullptr) {
    job->Complete(std::move(done));
  }
}

void Mirrors::Cancel(absl::string_view disk, bool keep_copy, Done done) {
  if (const auto job = LastOf(disk, done); job != nullptr) {
    job->Cancel(keep_copy, std::move(done));
  }
}

void Mirrors::Pause(absl::string_view disk, Done done) {
  if (const auto job = LastOf(disk, done); job != nullptr) {
    job->Pause(std::move(done));
  }
}

void Mirrors::Resume(absl::string_view disk, Done done) {
  if (const auto job = LastOf(disk, done); job != nullptr) {
    job->Resume(std::move(done));
  }
}

void Mirrors::SetMaxBandwidth(absl::string_view disk, uint64_t bytes_per_second, Done done) {
  if (const auto job = LastOf(disk, done); job != nullptr) {
    job->SetMaxBandwidth(bytes_per_second, std::move(done));
  }
}

absl::Status Mirrors::AllowsMove() const {
  for (const auto& job : All()) {
    if (const MirrorStatus mirror = job->status(); !mirror.over) {
      return absl::FailedPreconditionError(absl::StrCat("cannot move: disk ", mirror.disk, " is being mirrored to ",
                                                        mirror.target, "; `ferrite mirror NAME ", mirror.disk,
                                                        " --cancel` or `--complete` ends that"));
    }
  }
  return absl::OkStatus();
}

bool Mirrors::AwaitOver(absl::Duration limit) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  bool over = true;
  for (const auto& job : All()) {
    over = job->AwaitOver(deadline - MonotonicTime::Now()) && over;
  }
  return over;
}

void Mirrors::BeginEnd() {
  {
    const absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  for (const auto& job : All()) {
    job->BeginEnd();
  }
}

}  // namespace ferrite

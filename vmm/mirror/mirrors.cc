#include "vmm/mirror/mirrors.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite {

Mirrors::Mirrors(MachineDisks& disks, MirrorJob::Listener listener) : disks_(disks), listener_(std::move(listener)) {}

Mirrors::~Mirrors() {
  BeginEnd();
  const absl::MutexLock lock(&mutex_);
  last_.clear();
}

absl::Status Mirrors::CheckDisk(absl::string_view disk) const {
  std::vector<std::string> ids;
  for (const MachineDisks::Disk& each : disks_.List()) {
    if (each.id == disk) {
      return absl::OkStatus();
    }
    ids.push_back(each.id);
  }
  return absl::NotFoundError(ids.empty()
                                 ? absl::StrCat("no disk ", disk, ": this machine has no disks")
                                 : absl::StrCat("no disk ", disk, ": this machine has ", absl::StrJoin(ids, ", ")));
}

absl::StatusOr<uint64_t> Mirrors::Start(const MirrorRequest& request) {
  const absl::MutexLock start(&start_mutex_);
  uint64_t number = 0;
  {
    const absl::MutexLock lock(&mutex_);
    if (ending_) {
      return absl::UnavailableError("this machine's monitor is ending");
    }
    number = number_ + 1;
  }
  FERRITE_ASSIGN_OR_RETURN(const auto before, Find(request.disk));
  if (before != nullptr) {
    if (const MirrorStatus status = before->status(); !status.over) {
      return absl::FailedPreconditionError(absl::StrCat("disk ", request.disk, " is being mirrored to ", status.target,
                                                        " already; `ferrite mirror NAME ", request.disk,
                                                        " --cancel` ends that"));
    }
  }
  FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<MirrorJob> job, MirrorJob::Start(disks_, request, number, listener_));
  const absl::MutexLock lock(&mutex_);
  number_ = number;
  last_.erase(std::remove(last_.begin(), last_.end(), before), last_.end());
  last_.push_back(job);
  if (ending_) {
    job->BeginEnd();
  }
  return number;
}

std::vector<MirrorStatus> Mirrors::List() const {
  std::vector<std::shared_ptr<MirrorJob>> jobs;
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

absl::StatusOr<std::shared_ptr<MirrorJob>> Mirrors::Find(absl::string_view disk) const {
  {
    const absl::MutexLock lock(&mutex_);
    for (const auto& job : last_) {
      if (job->disk() == disk) {
        return job;
      }
    }
  }
  FERRITE_RETURN_IF_ERROR(CheckDisk(disk));
  return nullptr;
}

std::shared_ptr<MirrorJob> Mirrors::LastOf(absl::string_view disk, const Done& done) const {
  auto job = Find(disk);
  if (job.ok() && *job == nullptr) {
    job = absl::FailedPreconditionError(absl::StrCat("disk ", disk, " is not being mirrored"));
  }
  if (!job.ok()) {
    done(job.status());
    return nullptr;
  }
  return *std::move(job);
}

absl::StatusOr<MirrorStatus> Mirrors::Status(absl::string_view disk) const {
  FERRITE_ASSIGN_OR_RETURN(const auto job, Find(disk));
  return job == nullptr ? MirrorStatus() : job->status();
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
  for (const MirrorStatus& mirror : List()) {
    if (!mirror.over) {
      return absl::FailedPreconditionError(absl::StrCat("cannot move: disk ", mirror.disk, " is being mirrored to ",
                                                        mirror.target, "; `ferrite mirror NAME ", mirror.disk,
                                                        " --cancel` or `--complete` ends that"));
    }
  }
  return absl::OkStatus();
}

bool Mirrors::AwaitOver(absl::Duration limit) {
  std::vector<std::shared_ptr<MirrorJob>> jobs;
  {
    const absl::MutexLock lock(&mutex_);
    jobs = last_;
  }
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  bool over = true;
  for (const auto& job : jobs) {
    over = job->AwaitOver(deadline - MonotonicTime::Now()) && over;
  }
  return over;
}

void Mirrors::BeginEnd() {
  const absl::MutexLock lock(&mutex_);
  ending_ = true;
  for (const auto& job : last_) {
    job->BeginEnd();
  }
}

}  // namespace ferrite

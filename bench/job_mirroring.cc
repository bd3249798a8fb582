#include "bench/job_mirroring.h"

#include <unistd.h>

#include <utility>

#include "absl/time/time.h"
#include "base/status.h"
#include "bench/process_figures.h"
#include "bench/samples.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/fake_disks.h"
#include "vmm/mirror/mirror_job.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr double kMs = 1e3;
constexpr double kMiB = 1 << 20;

class JobMirroring final : public Mirroring {
 public:
  using Mirroring::Mirroring;

  absl::Status Start() override {
    FERRITE_ASSIGN_OR_RETURN(auto image, DiskImage::Create(setup_.source, /*read_only=*/false));
    disks_ = std::make_unique<FakeDisks>(std::move(image));
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Mirror(const std::string& target) override {
    const double begin = Now();
    const MirrorRequest request = {
        .disk = "root",
        .target = target,
        .auto_complete = true,
        .options = {.granularity = setup_.granularity,
                    .buffer_bytes = setup_.buffer_bytes,
                    .copy_mode = contender_.write_blocking ? migration::CopyMode::kWriteBlocking
                                                           : migration::CopyMode::kBackground}};
    FERRITE_ASSIGN_OR_RETURN(job_, MirrorJob::Create(*disks_, request, 1, [](const MirrorStatus&) {}));
    absl::Status begun;  // one that does not begin is over, too
    FERRITE_RETURN_IF_ERROR(job_->Start([&begun](const absl::Status& status) { begun = status; }));
    if (!job_->AwaitOver(kLimit)) {
      return absl::DeadlineExceededError("the mirror does not end");
    }
    FERRITE_RETURN_IF_ERROR(begun);
    const double end = Now();
    const MirrorStatus over = job_->status();
    FERRITE_RETURN_IF_ERROR(over.result);
    return Json{{"total_ms", (end - begin) * kMs},
                {"ready_ms", absl::ToDoubleMilliseconds(over.figures.ready_after)},
                {"standstill_ms", absl::ToDoubleMilliseconds(over.standstill)},
                {"copied_mib", static_cast<double>(over.figures.copied_bytes) / kMiB}};
  }

  absl::StatusOr<double> CpuSeconds() const override { return CpuOfProcess(getpid()); }

 private:
  std::unique_ptr<FakeDisks> disks_;
  std::unique_ptr<MirrorJob> job_;
};

}  // namespace

std::unique_ptr<Mirroring> MakeJobMirroring(const MirrorContender& contender, const MirroringSetup& setup) {
  return std::make_unique<JobMirroring>(contender, setup);
}

}  // namespace ferrite

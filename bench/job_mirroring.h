// ferrite's mirror without a machine, where there is no KVM: the job alone, in this process.
#ifndef FERRITE_BENCH_JOB_MIRRORING_H_
#define FERRITE_BENCH_JOB_MIRRORING_H_

#include <memory>

#include "bench/mirroring.h"

namespace ferrite {

std::unique_ptr<Mirroring> MakeJobMirroring(const MirrorContender& contender, const MirroringSetup& setup);

}  // namespace ferrite

#endif  // FERRITE_BENCH_JOB_MIRRORING_H_

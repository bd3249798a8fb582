// Whether two names are of one disk.
#ifndef FERRITE_VMM_MIRROR_SAME_DISK_H_
#define FERRITE_VMM_MIRROR_SAME_DISK_H_

#include <sys/types.h>

#include <string>

namespace ferrite {

// Whether what is written to one of `a` and `b` (open, also with O_PATH) may be seen at the other: they are one file or
// one block device, or one is made of the other, through any number of partitions, loop devices and what sysfs names
// the slaves of a device (device mapper, md). Two that are made of one third, as two partitions or two logical volumes,
// are two disks here: what they take of it is not looked at.
bool MayBeSameDisk(int a, int b);

// The same of the block devices of the numbers `a` and `b`, with sysfs at `sysfs`.
bool MayBeSameDevice(const std::string& sysfs, dev_t a, dev_t b);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_SAME_DISK_H_

// Which files of this host a machine that arrives may have.
#ifndef FERRITE_VMM_MOVE_ALLOWED_FILES_H_
#define FERRITE_VMM_MOVE_ALLOWED_FILES_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/pinned_file.h"
#include "vmm/boot/boot_file.h"
#include "vmm/move/arrival_options.h"

namespace ferrite {

// What the destination's user named, found when he did: nobody can put something else in its place afterwards. Of the
// paths that a peer names, those below a directory that was named for them, and nothing else of the host is opened.
class AllowedFiles {
 public:
  // Finds all that the options name. Links in their paths are followed when root or this process's user made them.
  // Errors name the option and the path.
  static absl::StatusOr<AllowedFiles> Find(const ArrivalOptions& options);

  // The disk that an option names for this id; null when there is none.
  std::shared_ptr<const PinnedFile> Disk(const std::string& id) const;
  // Where a disk is copied to, if an option says that for it or for all.
  struct CopyPlace {
    std::string path;
    bool is_named = false;                   // --disk-copy names it
    std::shared_ptr<const PinnedFile> file;  // what is written over; null: it is made
    std::shared_ptr<const Fd> directory;     // in here, open for reading
  };
  std::optional<CopyPlace> Copy(const std::string& id) const;
  // Null without the option. The kernel is a regular file that can be read, and so is the initrd.
  const std::shared_ptr<const BootFile>& kernel() const { return kernel_; }
  const std::shared_ptr<const BootFile>& initrd() const { return initrd_; }

  // What a peer names, below --disk-from or --boot-from, without a link in the rest of its path. FAILED_PRECONDITION
  // when it is not below: then it was not looked for. Errors are in words for this host's user, not for the peer.
  absl::StatusOr<PinnedFile> FindDisk(const std::string& path) const;
  absl::StatusOr<PinnedFile> FindBootFile(const std::string& path) const;

 private:
  struct Directory {
    PinnedFile place;
    // Paths that begin with one of these are below: as the user wrote it, from the root, and as the kernel knows it.
    std::vector<std::string> prefixes;
  };

  AllowedFiles() = default;
  static absl::StatusOr<std::vector<Directory>> FindDirectories(absl::string_view option,
                                                                const std::vector<std::string>& paths);
  static absl::StatusOr<PinnedFile> FindBelow(absl::string_view option, const std::vector<Directory>& directories,
                                              const std::string& path);

  static absl::StatusOr<CopyPlace> FindCopyPlace(const ArrivalOptions::DiskCopy& copy);

  std::map<std::string, std::shared_ptr<const PinnedFile>> disks_;
  std::map<std::string, CopyPlace> copies_;
  std::string copy_prefix_;  // DIR/NAME-
  std::shared_ptr<const Fd> copy_directory_;
  std::shared_ptr<const BootFile> kernel_;
  std::shared_ptr<const BootFile> initrd_;
  std::vector<Directory> disk_from_;
  std::vector<Directory> boot_from_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_ALLOWED_FILES_H_

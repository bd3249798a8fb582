#include "vmm/move/allowed_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"
#include "vmm/boot/byte_source.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::shared_ptr<const BootFile>> FindOwnBootFile(absl::string_view what, const std::string& path) {
  if (path.empty()) {
    return nullptr;
  }
  const std::string option = absl::StrCat("--", what);
  auto file = PinnedFile::Find(path, PinnedFile::Links::kOwn);
  FERRITE_RETURN_IF_ERROR(Annotate(file.status(), option));
  FERRITE_RETURN_IF_ERROR(Annotate(FileSource::Open(what, *file).status(), option));
  return std::make_shared<const BootFile>(BootFile{.file = *std::move(file), .content = std::nullopt});
}

// With a slash at its end.
std::string AsPrefix(const fs::path& directory) {
  std::string prefix = directory.lexically_normal().string();
  if (!absl::EndsWith(prefix, "/")) {
    prefix.push_back('/');
  }
  return prefix;
}

}  // namespace

absl::StatusOr<std::vector<AllowedFiles::Directory>> AllowedFiles::FindDirectories(
    absl::string_view option, const std::vector<std::string>& paths) {
  std::vector<Directory> directories;
  for (const std::string& path : paths) {
    auto place = PinnedFile::Find(path, PinnedFile::Links::kOwn);
    FERRITE_RETURN_IF_ERROR(Annotate(place.status(), option));
    struct stat info = {};
    if (fstat(place->fd(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", path, " is no directory"));
    }
    std::error_code error;
    const fs::path written = fs::absolute(path, error);
    const fs::path real = error ? fs::path() : fs::read_symlink(DescriptorPath(place->fd()), error);
    if (error) {
      return ErrnoStatus(error.value(), absl::StrCat(option, ": ", path));
    }
    directories.push_back({.place = *std::move(place), .prefixes = {AsPrefix(written), AsPrefix(real)}});
  }
  return directories;
}

absl::StatusOr<AllowedFiles> AllowedFiles::Find(const ArrivalOptions& options) {
  AllowedFiles files;
  for (const auto& [id, path] : options.disk_paths) {
    auto disk = PinnedFile::Find(path, PinnedFile::Links::kOwn);
    FERRITE_RETURN_IF_ERROR(Annotate(disk.status(), absl::StrCat("--disk ", id)));
    files.disks_[id] = std::make_shared<const PinnedFile>(*std::move(disk));
  }
  for (const auto& [id, copy] : options.disk_copies) {
    auto place = FindCopyPlace(copy);
    FERRITE_RETURN_IF_ERROR(Annotate(place.status(), absl::StrCat("--disk-copy ", id)));
    files.copies_[id] = *std::move(place);
  }
  if (!options.disk_copy_dir.empty()) {
    files.copy_prefix_ =
        absl::StrCat(options.disk_copy_dir, absl::EndsWith(options.disk_copy_dir, "/") ? "" : "/", options.name, "-");
    auto directory = FindDirectoryOf(files.copy_prefix_);
    FERRITE_RETURN_IF_ERROR(Annotate(directory.status(), "--disk-copy-dir"));
    files.copy_directory_ = std::make_shared<const Fd>(*std::move(directory));
  }
  FERRITE_ASSIGN_OR_RETURN(files.kernel_, FindOwnBootFile("kernel", options.kernel_path));
  FERRITE_ASSIGN_OR_RETURN(files.initrd_, FindOwnBootFile("initrd", options.initrd_path));
  FERRITE_ASSIGN_OR_RETURN(files.disk_from_, FindDirectories("--disk-from", options.disk_from));
  FERRITE_ASSIGN_OR_RETURN(files.boot_from_, FindDirectories("--boot-from", options.boot_from));
  return files;
}

absl::StatusOr<AllowedFiles::CopyPlace> AllowedFiles::FindCopyPlace(const ArrivalOptions::DiskCopy& copy) {
  CopyPlace place{.path = copy.path, .is_named = true};
  if (copy.existing) {
    FERRITE_ASSIGN_OR_RETURN(PinnedFile file, PinnedFile::Find(copy.path, PinnedFile::Links::kOwn));
    place.file = std::make_shared<const PinnedFile>(std::move(file));
    return place;
  }
  FERRITE_ASSIGN_OR_RETURN(Fd directory, FindDirectoryOf(copy.path));
  // Looked for now, when its user is still there to be told.
  const std::string name = copy.path.substr(copy.path.rfind('/') + 1);
  if (struct stat info = {}; fstatat(directory.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(copy.path, " is there already; `,existing` writes over it"));
  }
  place.directory = std::make_shared<const Fd>(std::move(directory));
  return place;
}

std::optional<AllowedFiles::CopyPlace> AllowedFiles::Copy(const std::string& id) const {
  if (const auto named = copies_.find(id); named != copies_.end()) {
    return named->second;
  }
  if (copy_directory_ == nullptr || disks_.contains(id)) {
    return std::nullopt;
  }
  return CopyPlace{.path = absl::StrCat(copy_prefix_, id, ".img"), .directory = copy_directory_};
}

std::shared_ptr<const PinnedFile> AllowedFiles::Disk(const std::string& id) const {
  const auto found = disks_.find(id);
  return found == disks_.end() ? nullptr : found->second;
}

absl::StatusOr<PinnedFile> AllowedFiles::FindBelow(absl::string_view option, const std::vector<Directory>& directories,
                                                   const std::string& path) {
  absl::Status status = absl::FailedPreconditionError(absl::StrCat(
      path, " is below no directory that `ferrite receive ", option, " DIR` names, and was not looked for"));
  // By its letters: ".." goes back a name, whatever the file systems make of it.
  const std::string normal = fs::path(path).lexically_normal().string();
  for (const Directory& directory : directories) {
    for (const std::string& prefix : directory.prefixes) {
      if (!absl::StartsWith(normal, prefix) || normal.size() == prefix.size()) {
        continue;
      }
      auto file = PinnedFile::FindBelow(directory.place.fd(), normal.substr(prefix.size()), normal);
      if (file.ok()) {
        return file;
      }
      status = file.status();
    }
  }
  return status;
}

absl::StatusOr<PinnedFile> AllowedFiles::FindDisk(const std::string& path) const {
  return FindBelow("--disk-from", disk_from_, path);
}

absl::StatusOr<PinnedFile> AllowedFiles::FindBootFile(const std::string& path) const {
  return FindBelow("--boot-from", boot_from_, path);
}

}  // namespace ferrite

// What the source says on one page or urgent channel: claimed runs of pages become frames.
#ifndef FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_
#define FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "memory/page_range.h"
#include "migration/channel/page_sink.h"
#include "migration/sending/rate_limiter.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// What becomes of memory that the hardware lost (R9).
struct Losses {
  bool may_go = false;  // the other side knows such pages
  // Told of each page that cannot be read, by an address in it, on the thread that reads it, and returns the host page
  // if it is lost. May be null, for who sends what is in no memory.
  std::function<absl::StatusOr<PageRange>(const uint8_t* address)> found;
};

// The whole units that are lost with the host page `page`.
PageRange UnitsLostWith(const PageRange& page, uint64_t pages_per_unit);

// Threads: one. Frames gather in the sink until Flush() or until there is enough; memory goes from where it is, and the
// guest may write it meanwhile (then the page is dirty and goes again).
class PageSender {
 public:
  // How what the limiter says is waited for: ends early when the channels are shut down.
  using Rest = std::function<void(absl::Duration)>;
  // All outlive the sender; of several of one `sink` the youngest alone sends. `limiter`, which goes by `clock`, may be
  // null, and then nothing rests.
  PageSender(PageSink& sink, RateLimiter* limiter, Rest rest, const Clock& clock, SendFigures& figures,
             Losses losses = {});
  ~PageSender();
  PageSender(const PageSender&) = delete;
  PageSender& operator=(const PageSender&) = delete;

  // The pages of `run`, zero pages as runs of their own. `region` is all of the region's memory, which begins with a
  // page; `pages_per_unit`: what goes as data goes in whole units. How many pages, from the front, went: less than all
  // where the unit behind them has a page that Losses::found was told of.
  absl::StatusOr<uint64_t> SendRun(const PageRange& run, std::span<const uint8_t> region, uint64_t pages_per_unit);
  // The same of what is nowhere in memory: `read` fetches the bytes of the pages [first, first + n) of the region, n
  // being the size of `into`. They gather in a buffer of the sender's, until Flush() or until it is full.
  absl::Status SendRead(const PageRange& run, uint64_t pages_per_unit,
                        absl::FunctionRef<absl::Status(uint64_t first, std::span<uint8_t> into)> read);
  // Pages that are known to be zero, or that nobody needs: not read.
  absl::Status SendZero(const PageRange& run);
  // Whole units, lost with `page`, which is the host page here. FAILED_PRECONDITION when the other side knows no such
  // pages.
  absl::Status SendLost(const PageRange& run, const PageRange& page);
  absl::Status SendRoundEnd(uint32_t number);
  absl::Status Flush();

  // Over this sender: bytes that have left, and pages.
  uint64_t sent_bytes() const { return sent_bytes_; }
  // Those that gather among them.
  uint64_t put_bytes() const { return sent_bytes_ + sink_.gathered_bytes(); }
  uint64_t data_pages() const { return data_pages_; }
  uint64_t zero_pages() const { return zero_pages_; }

 private:
  struct alignas(4096) Page {
    uint8_t bytes[4096];
  };

  // The same, of bytes that begin with the page `base_page`.
  absl::StatusOr<uint64_t> SendFrom(const PageRange& run, const uint8_t* bytes, uint64_t base_page,
                                    uint64_t pages_per_unit);
  // At most kMaxDataPages. The address at which one of them is lost: then none went.
  absl::StatusOr<std::optional<uintptr_t>> SendData(const PageRange& run, const uint8_t* bytes);
  // Counts what `put` puts in.
  absl::Status Put(absl::FunctionRef<absl::Status()> put);
  // That the hardware lost it, and which page it is.
  absl::StatusOr<PageRange> Find(const uint8_t* address) const;
  absl::Status FlushGathered();
  // Says so of what was lost on its way, and went as filler.
  absl::Status SendFound();

  PageSink& sink_;
  RateLimiter* const limiter_;
  const Rest rest_;
  const Clock& clock_;
  SendFigures& figures_;
  const Losses losses_;
  struct Found {
    const uint8_t* address;
    PageRange page;
  };
  std::vector<Found> found_;     // by the sink, and not sent as lost yet
  uint64_t pages_per_unit_ = 1;  // of the run that is sent
  bool in_unit_ = false;         // between two of its frames
  uint64_t sent_bytes_ = 0;
  uint64_t data_pages_ = 0;
  uint64_t zero_pages_ = 0;
  std::unique_ptr<Page[]> buffer_;  // of SendRead(), kMaxDataPages; made when first needed
  uint64_t buffered_ = 0;           // pages of it that have not left
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_PAGE_SENDER_H_

// The figures that a move comes to: each is a field of migration::MoveReport, one of proto/move_figures.capnp, and a
// row here, from which it is told to clients, read by them, and has its place in their JSON.
#ifndef FERRITE_VMM_CONTROL_MOVE_FIGURES_H_
#define FERRITE_VMM_CONTROL_MOVE_FIGURES_H_

#include "migration/api/move_report.h"
#include "proto/move_figures.capnp.h"

namespace ferrite {

// Whose account has a figure.
enum class FigureOf {
  kDeparture,
  kArrival,
  kBoth,
};

// Each calls `row` with a figure's name in JSON (of a duration without "_seconds"), with whose it is, with its member,
// and with what sets and gets it in the schema.
template <typename Row>
void ForEachDuration(Row row) {
  using migration::MoveReport;
  using Out = figures::MoveReport::Builder;
  using In = figures::MoveReport::Reader;
  row("total", FigureOf::kDeparture, &MoveReport::total, &Out::setTotal, &In::getTotal);
  row("downtime", FigureOf::kDeparture, &MoveReport::downtime, &Out::setDowntime, &In::getDowntime);
  row("downtime_limit", FigureOf::kDeparture, &MoveReport::downtime_limit, &Out::setDowntimeLimit,
      &In::getDowntimeLimit);
  row("source_wait", FigureOf::kDeparture, &MoveReport::source_wait, &Out::setSourceWait, &In::getSourceWait);
  row("destination_wait", FigureOf::kBoth, &MoveReport::destination_wait, &Out::setDestinationWait,
      &In::getDestinationWait);
  row("entry_wait", FigureOf::kBoth, &MoveReport::entry_wait, &Out::setEntryWait, &In::getEntryWait);
}

// What the downtime is the sum of.
template <typename Row>
void ForEachDowntimePart(Row row) {
  using migration::MoveReport;
  using Out = figures::MoveReport::Builder;
  using In = figures::MoveReport::Reader;
  row("stop", FigureOf::kDeparture, &MoveReport::stop, &Out::setStop, &In::getStop);
  row("last_pages", FigureOf::kDeparture, &MoveReport::last_pages, &Out::setLastPages, &In::getLastPages);
  row("state", FigureOf::kDeparture, &MoveReport::state, &Out::setState, &In::getState);
  row("send", FigureOf::kDeparture, &MoveReport::send, &Out::setSend, &In::getSend);
  row("load", FigureOf::kBoth, &MoveReport::load, &Out::setLoad, &In::getLoad);
  row("run", FigureOf::kBoth, &MoveReport::run, &Out::setRun, &In::getRun);
}

template <typename Row>
void ForEachCount(Row row) {
  using migration::MoveReport;
  using Out = figures::MoveReport::Builder;
  using In = figures::MoveReport::Reader;
  constexpr FigureOf kDeparture = FigureOf::kDeparture;
  constexpr FigureOf kArrival = FigureOf::kArrival;
  constexpr FigureOf kBoth = FigureOf::kBoth;
  row("rounds", kDeparture, &MoveReport::rounds, &Out::setRounds, &In::getRounds);
  row("data_pages", kBoth, &MoveReport::data_pages, &Out::setDataPages, &In::getDataPages);
  row("zero_pages", kBoth, &MoveReport::zero_pages, &Out::setZeroPages, &In::getZeroPages);
  row("skipped_pages", kDeparture, &MoveReport::skipped_pages, &Out::setSkippedPages, &In::getSkippedPages);
  row("twice_pages", kDeparture, &MoveReport::resent_pages, &Out::setTwicePages, &In::getTwicePages);
  row("bytes", kBoth, &MoveReport::bytes, &Out::setBytes, &In::getBytes);
  row("faults", kBoth, &MoveReport::faults, &Out::setFaults, &In::getFaults);
  row("minor_faults", kBoth, &MoveReport::minor_faults, &Out::setMinorFaults, &In::getMinorFaults);
  row("requested_pages", kDeparture, &MoveReport::requested_pages, &Out::setRequestedPages, &In::getRequestedPages);
  row("prefetched_pages", kDeparture, &MoveReport::prefetched_pages, &Out::setPrefetchedPages, &In::getPrefetchedPages);
  row("prefetch_hits", kDeparture, &MoveReport::prefetch_hits, &Out::setPrefetchHits, &In::getPrefetchHits);
  row("duplicate_pages", kBoth, &MoveReport::duplicate_pages, &Out::setDuplicatePages, &In::getDuplicatePages);
  row("copied_pages", kArrival, &MoveReport::copied_pages, &Out::setCopiedPages, &In::getCopiedPages);
  row("moved_pages", kArrival, &MoveReport::moved_pages, &Out::setMovedPages, &In::getMovedPages);
  row("huge_bytes", kBoth, &MoveReport::huge_bytes, &Out::setHugeBytes, &In::getHugeBytes);
  row("compacted_blocks", kArrival, &MoveReport::compacted_blocks, &Out::setCompactedBlocks, &In::getCompactedBlocks);
  row("lost_pages", kBoth, &MoveReport::lost_pages, &Out::setLostPages, &In::getLostPages);
  row("recoveries", kDeparture, &MoveReport::recoveries, &Out::setRecoveries, &In::getRecoveries);
  row("channels", kDeparture, &MoveReport::channels, &Out::setChannels, &In::getChannels);
  row("open_channels", kDeparture, &MoveReport::open_channels, &Out::setOpenChannels, &In::getOpenChannels);
  row("broken_channels", kBoth, &MoveReport::broken_channels, &Out::setBrokenChannels, &In::getBrokenChannels);
}

template <typename Row>
void ForEachFigure(Row row) {
  ForEachDuration(row);
  ForEachDowntimePart(row);
  ForEachCount(row);
}

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MOVE_FIGURES_H_

//! A round of reading: the pipes that are ready have a turn each, and a pause follows, which makes
//! one write out of many short ones.

use std::collections::VecDeque;
use std::time::Duration;

/// The most pipes of one round.
pub(super) const MOST_READY: usize = 256;
/// The pause after a round of small chunks.
const LONG: Duration = Duration::from_millis(50);
/// The pause after a round with a larger chunk, or if there is a hurry.
const SHORT: Duration = Duration::from_millis(5);
/// A small chunk is shorter than this.
const SMALL: usize = 1 << 10;
/// A chunk of this size begins the next round without a pause.
const BUSY: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Round {
    /// The pipes that have not had their turn.
    waiting: VecDeque<u64>,
    /// The length of the largest chunk so far.
    largest: usize,
    /// More pipes may be ready than one look returns.
    is_full: bool,
}

impl Round {
    pub(super) fn of(ready: Vec<u64>) -> Self {
        Self {
            is_full: ready.len() == MOST_READY,
            largest: 0,
            waiting: ready.into(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn next_pipe(&mut self) -> Option<u64> {
        self.waiting.pop_front()
    }

    pub(super) fn has_read(&mut self, length: usize) {
        self.largest = self.largest.max(length);
    }

    /// Returns the pause after this round. While a disk hangs, output is dropped, and there is
    /// always a pause. There is a hurry if a client waits for the pipes to be empty, or the holder
    /// is to end.
    pub(super) fn pause(&self, is_hung: bool, is_hurried: bool) -> Option<Duration> {
        match self.largest {
            ..SMALL if is_hurried || self.is_full => Some(SHORT),
            ..SMALL => Some(LONG),
            SMALL..BUSY => Some(SHORT),
            BUSY.. => is_hung.then_some(SHORT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(pipes: usize, largest: usize) -> Round {
        let mut round = Round::of(vec![0; pipes]);
        round.has_read(largest);
        round
    }

    #[test]
    fn the_more_is_written_the_shorter_is_the_pause() {
        let pauses = [1, SMALL, BUSY].map(|largest| round(1, largest).pause(false, false));
        assert_eq!(pauses, [Some(LONG), Some(SHORT), None]);
        assert_eq!(round(1, BUSY).pause(true, false), Some(SHORT));
    }

    #[test]
    fn a_hurry_and_many_pipes_shorten_the_pause() {
        assert_eq!(round(1, 1).pause(false, true), Some(SHORT));
        assert_eq!(round(MOST_READY, 1).pause(false, false), Some(SHORT));
    }
}

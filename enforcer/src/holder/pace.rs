//! The pauses between two rounds of reading, which make one write out of many short ones.

use std::time::Duration;

/// After a round of small chunks. A line waits so long at most.
const LONG: Duration = Duration::from_millis(50);
/// After a round with a larger chunk.
const SHORT: Duration = Duration::from_millis(5);
/// A small chunk is shorter than this.
const SMALL: usize = 1 << 10;
/// A chunk of this size begins the next round without a pause.
const BUSY: usize = 16 << 10;

/// Returns the pause after a round with this largest chunk. While a disk hangs, what is read is
/// dropped, and there is always a pause.
pub(super) fn pause_after(largest: usize, is_hung: bool) -> Option<Duration> {
    match largest {
        ..SMALL => Some(LONG),
        SMALL..BUSY => Some(SHORT),
        BUSY.. => is_hung.then_some(SHORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_written_the_shorter_is_the_pause() {
        let pauses = [1, SMALL, BUSY].map(|largest| pause_after(largest, false));
        assert_eq!(pauses, [Some(LONG), Some(SHORT), None]);
        assert_eq!(pause_after(BUSY, true), Some(SHORT));
    }
}

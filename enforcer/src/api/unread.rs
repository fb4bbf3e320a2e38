//! A bound for large answers. Only a few may wait to be read at a time, so that clients that never
//! read cost the agent no more than these. A client that may change something never waits.

use super::error::Failure;
use super::peer::Peer;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most unread answers of one kind on one socket.
const UNREAD: usize = 8;
/// The longest wait for a place. Then the client may try again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The places of one socket for one kind of answer.
#[derive(Clone, Debug)]
pub(super) struct Unread(Arc<Semaphore>);

/// `None` for who needs none.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Default for Unread {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNREAD)))
    }
}

impl Unread {
    /// Takes a place before the answer is made.
    pub(super) async fn place(&self, peer: Peer) -> Result<Place, Failure> {
        if peer.is_trusted() {
            return Ok(None);
        }
        let place = Arc::clone(&self.0).acquire_owned();
        match tokio::time::timeout(PATIENCE, place).await {
            Ok(Ok(place)) => Ok(Some(place)),
            Ok(Err(_)) | Err(_) => Err(Failure::busy("others have not read what they asked for")),
        }
    }
}

/// Returns a body that holds its place until it was read, or its client has gone.
pub(super) fn body(text: impl Into<Bytes>, place: Place) -> Body {
    Body::new(Held {
        text: text.into(),
        _place: place,
    })
}

struct Held {
    text: Bytes,
    _place: Place,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // The text is sent in pieces, so that the place is held until the last piece is read.
        const PIECE: usize = 64 << 10;
        if self.text.is_empty() {
            return Poll::Ready(None);
        }
        let size = PIECE.min(self.text.len());
        let piece = self.text.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.text.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_answer_is_gone() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let unread = Unread::default();
            let mut held = Vec::new();
            for _ in 0..UNREAD {
                let place = unread.place(Peer::unknown()).await.expect("a place");
                held.push(body("text", place));
            }
            assert_eq!(unread.0.available_permits(), 0);
            held.pop();
            assert!(unread.place(Peer::unknown()).await.is_ok());
        });
    }
}

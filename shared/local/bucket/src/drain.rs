//! A request body that can be read to its end after the operation gave up on it.
//!
//! A refusal sent while the client still writes is lost when the connection closes with unread bytes: the client sees a
//! reset instead of the `403`. So what is left of a refused body is read and dropped, within reason.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, SizeHint};

const DRAIN_BYTES: usize = 64 * 1024 * 1024;

pub(crate) struct SharedBody<B>(Arc<Mutex<Pin<Box<B>>>>);

impl<B> Clone for SharedBody<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Body<Data = Bytes>> SharedBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(Box::pin(body))))
    }

    pub(crate) async fn drain(mut self) {
        let mut drained = 0;
        while drained < DRAIN_BYTES {
            match poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await {
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, |data| data.remaining()),
                Some(Err(_)) | None => return,
            }
        }
    }
}

impl<B: Body<Data = Bytes>> Body for SharedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

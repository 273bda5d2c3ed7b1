//! Calls to a few nodes under way at a time, carried on by the request's own task.
//!
//! A task of its own for each call would be handed to another thread, which has to be woken: for calls of some tens of
//! microseconds that is most of their cost.

use crate::cluster::Member;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use onggi_object_client::CallError;

/// One call to a node.
pub(crate) type CallFuture<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// Who was called, and what came of it.
pub(crate) type Call<T> = (Member, Result<T, CallError>);

/// A call as [`Calls`] take it.
pub(crate) fn boxed<T>(
    call: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> CallFuture<T> {
    Box::pin(call)
}

/// Calls under way. They go on while [`Calls::next`] is waited for, and end when this is dropped.
pub(crate) struct Calls<T>(Vec<(Member, CallFuture<T>)>);

impl<T> Calls<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, member: Member, call: CallFuture<T>) {
        self.0.push((member, call));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next call that ends; `None` when none is left.
    pub(crate) async fn next(&mut self) -> Option<Call<T>> {
        poll_fn(|context| self.poll(context)).await
    }

    // There are as many as a thing has copies: looking at all of them costs less than knowing which one woke us.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Call<T>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let ended = self
            .0
            .iter_mut()
            .enumerate()
            .find_map(|(place, (_, call))| match call.as_mut().poll(context) {
                Poll::Ready(result) => Some((place, result)),
                Poll::Pending => None,
            });
        match ended {
            Some((place, result)) => {
                let (member, _) = self.0.swap_remove(place);
                Poll::Ready(Some((member, result)))
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_object_ring::DeviceId;
    use onggi_object_wire::Place;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    fn member(number: u16) -> Member {
        Member {
            id: DeviceId::new(number),
            place: Arc::new(Place {
                address: "127.0.0.1:1".to_owned(),
                device: "d1".parse().unwrap(),
            }),
        }
    }

    #[tokio::test]
    async fn calls_end_in_any_order_and_each_once() {
        let mut calls = Calls::new();
        let mut ends = Vec::new();
        for number in 0..3 {
            let (end, ended) = oneshot::channel::<u16>();
            ends.push(end);
            calls.add(
                member(number),
                boxed(async move { Ok(ended.await.unwrap_or(99)) }),
            );
        }
        for place in [2, 0, 0] {
            let end = ends.remove(place);
            let task = tokio::spawn(async move { end.send(7) });
            let (_, result) = calls.next().await.unwrap();
            assert_eq!(result.unwrap(), 7);
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert!(calls.is_empty());
        assert!(calls.next().await.is_none());
    }
}

//! Waits for many futures at once. It runs none of them elsewhere: what is dropped ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// The results of `futures`, in their order.
///
/// # Complexity
/// Each wake polls all that are not done: for some hundreds.
pub(in crate::redis) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Result<F::Output, Pin<Box<F>>>> =
        futures.into_iter().map(|future| Err(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut all = Poll::Ready(());
        for slot in &mut waiting {
            if let Err(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Ok(output),
                    Poll::Pending => all = Poll::Pending,
                }
            }
        }
        all
    })
    .await;
    waiting.into_iter().filter_map(Result::ok).collect()
}

/// As [`join_all`], of what may fail: the first error of those that failed.
///
/// # Errors
/// What one of them failed with. The others have come to their end too.
pub(in crate::redis) async fn try_join_all<T, E, F: Future<Output = Result<T, E>>>(
    futures: impl IntoIterator<Item = F>,
) -> Result<Vec<T>, E> {
    join_all(futures).await.into_iter().collect()
}

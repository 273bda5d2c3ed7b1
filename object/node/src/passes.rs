//! What daemons of a node have in common: passes over its devices with a pause before each.

use core::future::Future;
use core::time::Duration;
use onggi_common_service::Drain;

/// Makes passes, each after a pause, until the drain begins. One that is under way then is left where it waits.
pub(crate) async fn repeat<F>(interval: Duration, drain: &Drain, mut pass: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = drain.requested() => return,
        }
        tokio::select! {
            () = pass() => {}
            () = drain.requested() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn passes_follow_each_other_until_the_drain_begins() {
        let (drain, made, begun) = (Drain::new(), Cell::new(0), tokio::time::Instant::now());
        repeat(Duration::from_secs(60), &drain, || async {
            made.set(made.get() + 1);
            if made.get() == 3 {
                drain.begin();
                core::future::pending::<()>().await;
            }
        })
        .await;
        assert_eq!((made.get(), begun.elapsed().as_secs()), (3, 180));
    }
}

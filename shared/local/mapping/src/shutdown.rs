//! The signal that ends every poller.

use std::time::Duration;

use tokio::sync::watch;

/// Ends whatever holds a [`Shutdown`] of it, when told to or when dropped.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

/// Tells a poller when to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A signal and the hand that gives it.
    #[must_use]
    pub fn channel() -> (Stop, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stop(sender), Self(receiver))
    }

    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once the signal was given, at once if it was given before.
    pub async fn requested(&mut self) {
        // An error means that the sender is gone, which is the same signal.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Waits for `duration`, or less if the signal comes.
    pub(crate) async fn sleep(&mut self, duration: Duration) {
        tokio::select! {
            () = self.requested() => {}
            () = tokio::time::sleep(duration) => {}
        }
    }
}

impl Stop {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_stop_is_a_signal() {
        let (stop, mut shutdown) = Shutdown::channel();
        assert!(!shutdown.is_requested());
        drop(stop);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_signal_given_before_is_seen() {
        let (stop, mut shutdown) = Shutdown::channel();
        stop.stop();
        shutdown.requested().await;
        shutdown.sleep(Duration::from_secs(3600)).await;
        assert!(shutdown.is_requested());
    }
}

//! The threads on which the store is spoken to and the kernel, whose calls block, is called.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};

use crate::fault::LakeFault;

/// One request is not waited for on the thread that makes the next: two are enough, the kernel reads ahead by tasks.
const THREADS: usize = 2;

/// A runtime of the lake's own. A function's runtime has one thread, which a call of the kernel would block; and a connection belongs to the
/// runtime that opened it, so that all of the lake's are on this one, whoever asks.
#[derive(Debug, Clone)]
pub(crate) struct Runtime(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    runtime: Option<tokio::runtime::Runtime>,
    handle: Handle,
}

impl Runtime {
    pub(crate) fn start() -> Result<Self, LakeFault> {
        let built = Builder::new_multi_thread().worker_threads(THREADS).thread_name("lake").enable_all().build();
        let runtime = built.map_err(|fault| LakeFault::broken("starting threads", fault))?;
        let handle = runtime.handle().clone();
        Ok(Self(Arc::new(Owned { runtime: Some(runtime), handle })))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Runs what waits for the store.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        step: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, LakeFault> {
        self.0.handle.spawn(step).await.map_err(|fault| LakeFault::broken("waiting for a task", fault))
    }

    /// Runs what blocks. It runs to its end even if nobody waits for it any more.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LakeFault> {
        self.0.handle.spawn_blocking(step).await.map_err(|fault| LakeFault::broken("waiting for a task", fault))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Waiting for the threads, as dropping a runtime does, is forbidden where the last handle may be dropped: in async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

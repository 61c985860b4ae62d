//! The lake's ports in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use domain::fault::PortFault;
use domain::lake::batch::{BatchId, BatchJob, BatchQueue, Claim, Claimed, Gate, LineId};
use domain::lake::compaction::{CompactJob, CompactQueue};
use domain::lake::intake::{IntakeInbox, IntakeQueue};
use domain::lake::retention;
use domain::lake::source::{Source, SourceName, SourceStore};
use time::OffsetDateTime;

use crate::memory::{conflict, unavailable};

/// Sources in memory; counts how often it was asked.
#[derive(Debug, Default)]
pub struct MemorySources {
    pub asked: AtomicUsize,
    sources: Mutex<BTreeMap<SourceName, Source>>,
}

#[async_trait]
impl SourceStore for MemorySources {
    async fn get(&self, name: &SourceName) -> Result<Option<Source>, PortFault> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.sources.lock().expect("not poisoned").get(name).cloned())
    }

    async fn put(&self, source: &Source) -> Result<(), PortFault> {
        let mut sources = self.sources.lock().expect("not poisoned");
        if source.version != sources.get(&source.name).map_or(0, |stored| stored.version) + 1 {
            return conflict("put source");
        }
        sources.insert(source.name.clone(), source.clone());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Source>, PortFault> {
        Ok(self.sources.lock().expect("not poisoned").values().cloned().collect())
    }
}

/// A gate in memory. While `down`, nothing is claimed or settled.
#[derive(Debug, Default)]
pub struct MemoryGate {
    pub down: AtomicBool,
    claims: Mutex<HashMap<LineId, (Claimed, OffsetDateTime)>>,
    settled: Mutex<BTreeSet<BatchId>>,
}

#[async_trait]
impl Gate for MemoryGate {
    async fn claim(&self, batch: &BatchId, claims: &[Claim], now: OffsetDateTime) -> Result<Vec<Claimed>, PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("claim");
        }
        let mut stand = self.claims.lock().expect("not poisoned");
        let mut claim = |Claim { line, says }: &Claim| {
            let new = (Claimed { batch: batch.clone(), says: says.clone() }, now + retention::GATE);
            let (claimed, until) = stand.entry(line.clone()).or_insert_with(|| new.clone());
            if claimed.batch == *batch || *until < now {
                (*claimed, *until) = new;
            }
            claimed.clone()
        };
        Ok(claims.iter().map(&mut claim).collect())
    }

    async fn is_settled(&self, batch: &BatchId) -> Result<bool, PortFault> {
        Ok(self.settled.lock().expect("not poisoned").contains(batch))
    }

    async fn settle(&self, batch: &BatchId, _: OffsetDateTime) -> Result<(), PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("settle");
        }
        self.settled.lock().expect("not poisoned").insert(batch.clone());
        Ok(())
    }
}

/// The lake's queues and the bucket's inbox in memory. While `down`, nothing goes in.
#[derive(Debug, Default)]
pub struct MemoryIntakes {
    pub down: AtomicBool,
    sent: Mutex<Vec<String>>,
    kept: Mutex<Vec<(String, String)>>,
    asked: Mutex<Vec<CompactJob>>,
    again: Mutex<Vec<BatchId>>,
}

impl MemoryIntakes {
    /// The messages on the queue.
    #[must_use]
    pub fn sent(&self) -> Vec<String> {
        self.sent.lock().expect("not poisoned").clone()
    }

    /// Keys and messages in the inbox.
    #[must_use]
    pub fn kept(&self) -> Vec<(String, String)> {
        self.kept.lock().expect("not poisoned").clone()
    }

    /// What was asked to be merged.
    #[must_use]
    pub fn asked(&self) -> Vec<CompactJob> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// The batches that were asked for again.
    #[must_use]
    pub fn again(&self) -> Vec<BatchId> {
        self.again.lock().expect("not poisoned").clone()
    }

    fn up(&self, operation: &'static str) -> Result<(), PortFault> {
        if self.down.load(Ordering::SeqCst) { unavailable(operation) } else { Ok(()) }
    }
}

#[async_trait]
impl IntakeQueue for MemoryIntakes {
    async fn send(&self, message: String) -> Result<(), PortFault> {
        self.up("send intake")?;
        self.sent.lock().expect("not poisoned").push(message);
        Ok(())
    }
}

#[async_trait]
impl BatchQueue for MemoryIntakes {
    async fn ask_again(&self, job: &BatchJob) -> Result<(), PortFault> {
        self.up("ask for a batch again")?;
        self.again.lock().expect("not poisoned").push(job.batch.clone());
        Ok(())
    }
}

#[async_trait]
impl IntakeInbox for MemoryIntakes {
    async fn keep(&self, key: &str, message: String) -> Result<(), PortFault> {
        self.up("keep intake")?;
        self.kept.lock().expect("not poisoned").push((key.to_owned(), message));
        Ok(())
    }
}

#[async_trait]
impl CompactQueue for MemoryIntakes {
    async fn ask(&self, jobs: &[CompactJob]) -> Result<(), PortFault> {
        self.up("ask to compact")?;
        self.asked.lock().expect("not poisoned").extend_from_slice(jobs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryGate, MemorySources};
    use crate::contract_lake;

    #[tokio::test]
    async fn keeps_the_contract_of_sources() {
        contract_lake::sources(&MemorySources::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_the_gate() {
        contract_lake::gate(&MemoryGate::default()).await;
    }
}

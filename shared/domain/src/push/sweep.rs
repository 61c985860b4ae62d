//! The sweep: rings for conversations whose bells were lost, whatever it was that lost them.

use async_trait::async_trait;
use time::{Duration, OffsetDateTime};

use super::{PushJob, PushQueue};
use crate::fault::PortFault;
use crate::id::ConversationId;
use crate::job::Bookmarks;

/// How long something may be unpushed before the sweep rings.
pub const OVERDUE: Duration = Duration::seconds(30);

/// Under this name the sweep keeps its place.
const JOB: &str = "outbox-sweep";

/// How many conversations a page names, and how many pages one run works through.
const PAGE: u32 = 100;
const PAGES: usize = 50;

/// Some conversations, and where the next ones begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpushedPage {
    pub conversations: Vec<ConversationId>,
    /// Nothing after the last page.
    pub next: Option<String>,
}

/// What the sweep sees of conversations.
#[async_trait]
pub trait Unpushed: Send + Sync {
    /// Conversations with something that was committed before `until` and, as far as is known, not pushed. `from` is the `next` of an
    /// earlier page.
    async fn unpushed(&self, until: OffsetDateTime, from: Option<&str>, limit: u32) -> Result<UnpushedPage, PortFault>;
}

/// Rings for every conversation that waits for longer than [`OVERDUE`]; says for how many. What does not fit into one run is where the
/// next one begins, so that conversations that cannot be pushed do not keep others from being rung for.
pub async fn sweep(
    unpushed: &dyn Unpushed,
    queue: &dyn PushQueue,
    bookmarks: &dyn Bookmarks,
    now: OffsetDateTime,
) -> Result<usize, PortFault> {
    let began_at = bookmarks.bookmark(JOB).await?;
    let mut from = began_at.clone();
    let mut rung = 0;
    for _ in 0..PAGES {
        let page = unpushed.unpushed(now - OVERDUE, from.as_deref(), PAGE).await?;
        for conversation_id in page.conversations {
            let once = format!("sweep.{conversation_id}.{}", now.unix_timestamp() / 60);
            queue.tell(&PushJob::Check { conversation_id }, &once).await?;
            rung += 1;
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    if from != began_at {
        bookmarks.set_bookmark(JOB, from.as_deref()).await?;
    }
    Ok(rung)
}

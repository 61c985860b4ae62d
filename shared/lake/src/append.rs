//! Accepted events -> a raw object -> rows, each event counting once. [`domain::lake::batch`] says in which order, and why it holds whoever
//! dies when.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use domain::fault::{Fault, PortFault, Remedy, chain};
use domain::lake::batch::{BatchId, Claim, Claimed, Counts, Gate, LineId, NotABatch};
use domain::lake::compaction::{self, CompactJob, CompactQueue};
use domain::lake::quarantine::Kept;
use domain::lake::source::{Mapping, Source, SourceDirectory, SourceName};
use domain::lake::{Intake, Kind};
use flate2::read::MultiGzDecoder;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use lake_rows::{
    Converter, Identity, Level, Line, MAX_LINE_BYTES, Options, Quarantined, Reason, identify, write_parquet,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::{Lake, LakeFault};

/// How hard raw objects are compressed: they are read once, if ever.
const ZSTD: i32 = 3;

/// How many quarantined events are written at once.
const AT_ONCE: usize = 16;

/// What every gzip file begins with, and no JSON.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why a message is kept aside although nothing is wrong with it.
const OTHER_WORDS: &str = "an earlier message has its id and says something else";

/// How events are read whose source is not known any more.
static WECHAT: Mapping = Mapping::Wechat;

/// Appends batches.
pub struct Appender {
    lake: Arc<Lake>,
    gate: Arc<dyn Gate>,
    sources: SourceDirectory,
    merges: Arc<dyn CompactQueue>,
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").finish_non_exhaustive()
    }
}

/// What an event is in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It counts here.
    Own,
    /// It counts here, and an earlier message has its id and says something else.
    Conflict,
    /// It counts elsewhere.
    Duplicate,
}

/// The events of a batch, each with how it stands, and the batches that the others count for.
struct Sorted<'a> {
    lines: Vec<(Line<'a>, Standing)>,
    others: BTreeSet<BatchId>,
}

impl Appender {
    #[must_use]
    pub fn new(lake: Arc<Lake>, gate: Arc<dyn Gate>, sources: SourceDirectory, merges: Arc<dyn CompactQueue>) -> Self {
        Self { lake, gate, sources, merges }
    }

    /// Appends what was accepted. When it returns, every event is in a table or in the quarantine, now or since before.
    pub async fn append(&self, mut intakes: Vec<Intake>, now: OffsetDateTime) -> Result<Counts, AppendFault> {
        // The same events are the same batch, in whichever order a queue hands them out; and it may hand one out twice.
        intakes
            .sort_by(|a, b| (a.received_at, &a.source, &a.request_id).cmp(&(b.received_at, &b.source, &b.request_id)));
        intakes.dedup();
        let Some(first) = intakes.first() else { return Ok(Counts::default()) };
        let raw = raw_object(&intakes)?;
        let batch = BatchId::new(first.received_at, &hex::encode(Sha256::digest(&raw)))?;
        let packed = zstd::encode_all(raw.as_slice(), ZSTD).map_err(AppendFault::Zstd)?;
        self.lake.write_new_object(&batch.raw_key(), packed.into()).await?;
        self.carry_out(&batch, &intakes, now).await
    }

    /// Carries out a batch whose raw object is there. What of it is done stays done.
    pub async fn again(&self, batch: &BatchId, now: OffsetDateTime) -> Result<(), AppendFault> {
        if self.gate.is_settled(batch).await? {
            return Ok(());
        }
        let intakes = self.raw(batch).await?;
        self.carry_out(batch, &intakes, now).await.map(|_| ())
    }

    async fn carry_out(&self, batch: &BatchId, intakes: &[Intake], now: OffsetDateTime) -> Result<Counts, AppendFault> {
        let (counts, others) = self.commit(batch, intakes, now).await?;
        for other in others {
            if !self.gate.is_settled(&other).await? {
                tracing::warn!(lake.batch = %other, "A batch that its worker left is carried out");
                self.commit(&other, &self.raw(&other).await?, now).await?;
            }
        }
        Ok(counts)
    }

    /// Brings a batch's own events into their tables, and names the batches that the others count for. All of a batch that is settled are duplicates.
    async fn commit(
        &self,
        batch: &BatchId,
        intakes: &[Intake],
        now: OffsetDateTime,
    ) -> Result<(Counts, BTreeSet<BatchId>), AppendFault> {
        let bodies: Vec<Result<Cow<'_, [u8]>, String>> = intakes.iter().map(|intake| unpacked(&intake.body)).collect();
        let sources = self.sources_of(intakes, now).await?;
        let raw_key = batch.raw_key();
        let lines = intakes.iter().zip(&bodies).zip(1..).map(|((intake, body), raw_line)| {
            let source = sources.get(&intake.source).and_then(Option::as_deref);
            Line {
                bytes: body.as_deref().unwrap_or(&intake.body),
                source: intake.source.as_str(),
                mapping: source.map_or(&WECHAT, |source| &source.mapping),
                mask: source.is_some_and(|source| source.mask),
                received_at: intake.received_at,
                raw_object: &raw_key,
                raw_line,
            }
        });
        let sorted = self.sort(batch, intakes, lines.collect(), now).await?;
        let mut counts = Counts { lines_in: intakes.len() as u64, ..Counts::default() };
        if self.gate.is_settled(batch).await? {
            // Its lines are claimed for longer now, and whoever finds them has to find this as well.
            self.gate.settle(batch, now).await?;
            counts.duplicates = counts.lines_in;
            return Ok((counts, sorted.others));
        }

        let bytes = sorted.lines.iter().map(|(line, _)| line.bytes.len()).sum();
        let mut converter = Converter::new(Options::default()).expecting(bytes);
        let mut aside = Vec::new();
        for ((line, standing), body) in sorted.lines.iter().zip(&bodies) {
            match (standing, body) {
                (Standing::Duplicate, _) => counts.duplicates += 1,
                (Standing::Conflict, _) => aside.push(Quarantined::new(line, Reason::Conflict, OTHER_WORDS)),
                (Standing::Own, Err(detail)) => aside.push(Quarantined::new(
                    line,
                    Reason::Packed,
                    format!("it is compressed and does not unpack: {detail}"),
                )),
                (Standing::Own, Ok(_)) => converter.push(line),
            }
        }
        let converted = converter.finish()?;
        counts.rows = converted.rows();
        counts.duplicates += converted.duplicates;
        aside.extend(converted.quarantined);
        counts.quarantined = aside.len() as u64;
        if !counts.balance() {
            tracing::error!(lake.batch = %batch, lake.counts = ?counts, "A batch does not balance");
            return Err(AppendFault::Unbalanced(counts));
        }

        self.keep_aside(intakes, &aside).await?;
        let mut jobs = Vec::new();
        // Contacts first: the messages' log then has a commit of each batch that has rows of them, once all of the batch is there.
        for kind in [Kind::Contacts, Kind::Messages] {
            let rows = converted.batches.iter().filter(|rows| rows.table == kind);
            let encoded = rows.map(|rows| Ok((rows.partition, write_parquet(kind, &rows.rows, Level::L0)?)));
            let encoded: Vec<_> = encoded.collect::<Result<_, lake_rows::WriteError>>()?;
            let files = self.lake.write_batch_files(kind, batch, &encoded).await?;
            if files.is_empty() {
                continue;
            }
            let appended = self.lake.append(kind, &files, batch, counts).await?;
            if appended.already_there {
                self.lake.discard(kind, &files).await?;
            }
            let due = appended.backlog.iter().filter(|backlog| compaction::is_due(backlog.files, backlog.bytes));
            jobs.extend(due.map(|due| CompactJob::due(kind, due.partition, appended.version)));
        }
        self.gate.settle(batch, now).await?;
        tracing::info!(
            lake.batch = %batch, lake.lines_in = counts.lines_in, lake.rows = counts.rows,
            lake.duplicates = counts.duplicates, lake.quarantined = counts.quarantined, "A batch is in its tables"
        );
        // What is appended next asks again, and a sweep does.
        if let Err(fault) = self.merges.ask(&jobs).await {
            tracing::warn!(error = %chain(&fault), "Nobody was asked to merge");
        }
        Ok((counts, sorted.others))
    }

    /// Claims every event for the batch, and tells how each stands.
    async fn sort<'a>(
        &self,
        batch: &BatchId,
        intakes: &[Intake],
        lines: Vec<Line<'a>>,
        now: OffsetDateTime,
    ) -> Result<Sorted<'a>, AppendFault> {
        let delivery = |intake: &Intake| {
            let (source, request_id) = (intake.source.clone(), intake.request_id.clone());
            Claim { line: LineId::Delivery { source, request_id }, says: String::new() }
        };
        let claims = intakes.iter().zip(&lines).map(|(intake, line)| match identify(line, &Options::default()) {
            Some(Identity { table: Kind::Messages, key, says }) => {
                Claim { line: LineId::Message { msg_id: key }, says }
            }
            _ => delivery(intake),
        });
        let claims: Vec<Claim> = claims.collect();
        let mut stand = self.claim(batch, &claims, now).await?;

        // A message that says something else than the one that counts is kept aside, once for each delivery.
        let says_other = |claim: &Claim| stand.get(&claim.line).is_some_and(|claimed| claimed.says != claim.says);
        let others: Vec<Option<Claim>> =
            intakes.iter().zip(&claims).map(|(intake, claim)| says_other(claim).then(|| delivery(intake))).collect();
        let conflicts: Vec<Claim> = others.iter().flatten().cloned().collect();
        stand.extend(self.claim(batch, &conflicts, now).await?);

        let own = |claim: &Claim| stand.get(&claim.line).is_some_and(|claimed| claimed.batch == *batch);
        let standing = |claim: &Claim, conflict: &Option<Claim>| match conflict {
            Some(conflict) if own(conflict) => Standing::Conflict,
            None if own(claim) => Standing::Own,
            _ => Standing::Duplicate,
        };
        let standings: Vec<Standing> =
            claims.iter().zip(&others).map(|(claim, other)| standing(claim, other)).collect();
        let others = stand.into_values().map(|claimed| claimed.batch).filter(|other| other != batch).collect();
        Ok(Sorted { lines: lines.into_iter().zip(standings).collect(), others })
    }

    /// Claims each line once, and tells which claims stand. Of those that name one line the first counts.
    async fn claim(
        &self,
        batch: &BatchId,
        claims: &[Claim],
        now: OffsetDateTime,
    ) -> Result<HashMap<LineId, Claimed>, AppendFault> {
        let mut named = BTreeSet::new();
        let claims: Vec<Claim> = claims.iter().filter(|claim| named.insert(&claim.line)).cloned().collect();
        let stand = self.gate.claim(batch, &claims, now).await?;
        Ok(claims.into_iter().map(|claim| claim.line).zip(stand).collect())
    }

    async fn sources_of(
        &self,
        intakes: &[Intake],
        now: OffsetDateTime,
    ) -> Result<HashMap<SourceName, Option<Arc<Source>>>, AppendFault> {
        let mut sources = HashMap::new();
        for name in intakes.iter().map(|intake| &intake.source) {
            if !sources.contains_key(name) {
                let source = if name.is_own() { None } else { self.sources.find(name, now).await? };
                sources.insert(name.clone(), source);
            }
        }
        Ok(sources)
    }

    /// Keeps events with the reason why they are no rows. One that lies there already stays as it is.
    async fn keep_aside(&self, intakes: &[Intake], aside: &[Quarantined]) -> Result<(), AppendFault> {
        let objects = aside.iter().filter_map(|line| {
            let place = usize::try_from(line.raw_line).ok()?.checked_sub(1)?;
            let intake = intakes.get(place)?;
            let kept = Kept {
                reason: line.reason.as_str().to_owned(),
                detail: line.detail.clone(),
                raw_object: line.raw_object.clone(),
                raw_line: line.raw_line,
                intake: intake.clone(),
            };
            Some((Kept::key(intake, &hex::encode(Sha256::digest(Kept::identity(intake)))), kept))
        });
        let writes: Vec<_> = objects.map(|(key, kept)| self.put_aside(key, kept)).collect();
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn put_aside(&self, key: String, kept: Kept) -> Result<(), AppendFault> {
        let body = serde_json::to_vec(&kept).map_err(AppendFault::Json)?;
        self.lake.write_new_object(&key, body.into()).await?;
        Ok(())
    }

    /// The events of a batch, from its raw object.
    async fn raw(&self, batch: &BatchId) -> Result<Vec<Intake>, AppendFault> {
        let packed = self.lake.read_object(&batch.raw_key()).await?;
        let packed = packed.ok_or_else(|| AppendFault::NoRawObject(batch.clone()))?;
        let raw = zstd::decode_all(packed.as_ref()).map_err(AppendFault::Zstd)?;
        let lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(AppendFault::Json)).collect()
    }
}

/// A line for each event.
fn raw_object(intakes: &[Intake]) -> Result<Vec<u8>, AppendFault> {
    let mut raw = Vec::new();
    for intake in intakes {
        serde_json::to_writer(&mut raw, intake).map_err(AppendFault::Json)?;
        raw.push(b'\n');
    }
    Ok(raw)
}

/// How many bytes a body takes once it is unpacked: its own, if it is not compressed.
#[must_use]
pub fn unpacked_bytes(body: &[u8]) -> usize {
    let unpacked = || std::io::copy(&mut unpacking(body), &mut std::io::sink()).ok().and_then(|it| it.try_into().ok());
    if body.starts_with(&GZIP) { unpacked().unwrap_or(MAX_LINE_BYTES) } else { body.len() }
}

/// What a compressed body unpacks to, and no more than is sure to be too long.
fn unpacking(body: &[u8]) -> impl std::io::Read {
    MultiGzDecoder::new(body).take(u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX).saturating_add(1))
}

/// A body without its compression. Whether it is compressed the body itself tells best: senders forget the header, proxies the body. What
/// would unpack to more than a line may have is unpacked no further.
fn unpacked(body: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if !body.starts_with(&GZIP) {
        return Ok(Cow::Borrowed(body));
    }
    let mut plain = Vec::new();
    match unpacking(body).read_to_end(&mut plain) {
        Ok(_) => Ok(Cow::Owned(plain)),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Why a batch is not in its tables.
#[derive(Debug, thiserror::Error)]
pub enum AppendFault {
    #[error("the lake failed")]
    Lake(#[from] LakeFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
    #[error("rows cannot be made")]
    Rows(#[from] arrow_schema::ArrowError),
    #[error("a file cannot be made")]
    File(#[from] lake_rows::WriteError),
    #[error("an event cannot be written or read")]
    Json(#[source] serde_json::Error),
    #[error("a raw object cannot be packed or unpacked")]
    Zstd(#[source] std::io::Error),
    #[error(transparent)]
    Batch(#[from] NotABatch),
    #[error("batch `{0}` was left by its worker, and its raw object is gone")]
    NoRawObject(BatchId),
    #[error("a batch does not balance: {0:?}")]
    Unbalanced(Counts),
}

impl Fault for AppendFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Lake(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
            _ => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Lake(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
            Self::NoRawObject(_) => "raw_object_gone",
            Self::Unbalanced(_) => "unbalanced_batch",
            _ => "internal_error",
        }
    }
}

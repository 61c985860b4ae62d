//! A day of webhooks: each event is in the lake once or kept aside, smaller than it came, the same once its day is sealed, and found by who asks.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use domain::lake::quarantine::{Kept, QUARANTINE_PREFIX};
use domain::lake::{Kind, Partition};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use lake::Lake;
use lake_rows::Digester;
use lake_sample::{Event, Plan, What};
use lambda_kit::random;
use local::Settings;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::{Client, Method};
use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, at};
use crate::demo::{Wrong, note, step, within};
use crate::fault::{CliFault, say};
use crate::lake::open;
use crate::local_run::trigger;
use crate::stack::{LakePlace, Stack};

/// How many events there are on the day.
const EVENTS: u64 = 800;

/// How many are posted at once.
const POSTS: usize = 16;

const DAY_SECS: i64 = 86_400;

/// How soon whatever was acknowledged is to be readable.
const READABLE: Duration = Duration::from_secs(60);

/// How many rows a page of the answer has.
const PAGE: u64 = 200;

/// How long is waited before the lake is looked at again.
const GLANCE: Duration = Duration::from_millis(250);

pub(super) struct LakeStory<'a> {
    settings: &'a Settings,
    lake: Lake,
    digester: Digester,
    events: Vec<Event>,
    /// When the events were said: a day that is over.
    day: Partition,
    /// Since when what is received is this demo's.
    begun: OffsetDateTime,
}

/// What the table holds of the events.
#[derive(Default)]
struct Found {
    /// What each message says, by a hash of its id.
    messages: HashMap<[u8; 16], [u8; 16]>,
    contacts: u64,
    usernames: HashSet<String>,
    /// Rows whose message is there already.
    doubled: u64,
    files: u64,
    bytes: u64,
}

impl<'a> LakeStory<'a> {
    pub(super) async fn begin(settings: &'a Settings) -> Result<Self, CliFault> {
        let lake = open(&LakePlace::local(settings).await?).await?;
        let begun = Stack::local(settings).await?.now().await?;
        let from = (begun.unix_timestamp() / DAY_SECS - 3) * DAY_SECS;
        let day = Partition::of_unix(from).ok_or_else(|| CliFault::Failed("the clock is wrong".to_owned()))?;
        // Other messages each time, so that none is there yet.
        let seed = u64::from(random::uuid().as_fields().0);
        let plan = Plan { seed, events: EVENTS, from, spread_secs: DAY_SECS, mixed: true };
        Ok(Self { settings, lake, digester: Digester::default(), events: plan.events().collect(), day, begun })
    }

    pub(super) async fn tell(&self) -> Result<(), CliFault> {
        say("\nA day of webhooks goes into the lake");
        let before = step("the lake is looked at", self.aside()).await?;
        let begun = Instant::now();
        let posted = step(format!("{EVENTS} events of {} are posted", self.day), self.post()).await?;
        note(format!("{:.0} events/s, each durable before its 200", EVENTS as f64 / begun.elapsed().as_secs_f64()));
        let title = "each message is a row once; what is malformed is kept aside, with its reason";
        let found = step(title, self.arrives(&before, &posted)).await?;
        self.note_balance(&found, begun.elapsed());
        let sealed = step("the day is sealed", self.seal()).await?;
        note(format!("files of its messages: {} before, {} now, sorted", found.files, sealed.files));
        let title = "its rows are the same, message by message";
        step(title, async { if sealed.messages == found.messages { Ok(()) } else { Err("they are not".into()) } })
            .await?;
        self.ask().await
    }

    /// Asks for the messages as a program would.
    async fn ask(&self) -> Result<(), CliFault> {
        let client =
            self.settings.clients.first().map(|client| (client.client_id.clone(), client.client_secret.clone()));
        let client = client.ok_or_else(|| CliFault::Argument("the bundle has no client".to_owned()))?;
        let api = Api::with(self.settings.http.clone(), client, "lake:read")?;
        step("a message is found by its id", self.by_id(&api)).await?;
        step("and once more, by a function that is warm", self.by_id(&api)).await?;
        let pages = step("the day is read by a filter, page by page: every message once", self.by_day(&api)).await?;
        note(format!("{pages} pages of {PAGE} rows at most"));
        Ok(())
    }

    fn msg_ids(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Message { msg_id, .. } => Some(msg_id.as_str()),
            _ => None,
        })
    }

    async fn by_id(&self, api: &Api) -> Result<(), Wrong> {
        let msg_id = self.msg_ids().last().ok_or("there are no messages")?;
        let (_, found) = api.call(Method::GET, &format!("/v1/lake/messages/{msg_id}"), None, &[]).await?;
        let found = at(at(&found, "message"), "msg_id");
        if found == msg_id { Ok(()) } else { Err(format!("`{found}` is found").into()) }
    }

    /// Whoever else said something on the day is passed over.
    async fn by_day(&self, api: &Api) -> Result<u32, Wrong> {
        let (day, next) = (self.day, Partition::of(self.day.ends_at()).ok_or("the clock is wrong")?);
        let mut missing: HashSet<&str> = self.msg_ids().collect();
        let (known, mut cursor) = (missing.clone(), String::new());
        for pages in 1.. {
            let path =
                format!("/v1/lake/messages?start={day}&end={next}&columns=msg_id,create_time&limit={PAGE}{cursor}");
            let (_, page) = api.call(Method::GET, &path, None, &[]).await?;
            for row in at(&page, "messages").as_array().into_iter().flatten() {
                let msg_id = at(row, "msg_id").as_str().unwrap_or_default();
                if known.contains(msg_id) && !missing.remove(msg_id) {
                    return Err(format!("`{msg_id}` is there twice").into());
                }
            }
            match at(&page, "next_cursor").as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None if missing.is_empty() => return Ok(pages),
                None => break,
            }
        }
        Err(format!("{} are missing", missing.len()).into())
    }

    fn note_balance(&self, found: &Found, readable: Duration) {
        let malformed = self.count(|what| matches!(what, What::Malformed));
        let rows = found.messages.len() as u64 + found.contacts;
        note(format!(
            "{EVENTS} events = {rows} rows + {} repeated + {malformed} kept aside",
            EVENTS - rows - malformed
        ));
        let json: u64 = self.events.iter().map(|event| event.body.len() as u64).sum();
        let smaller = 100.0 - 100.0 * found.bytes as f64 / json as f64;
        note(format!(
            "readable {:.1} s after the first was posted, {smaller:.0} % smaller than JSON",
            readable.as_secs_f64()
        ));
    }

    fn count(&self, is: impl Fn(&What) -> bool) -> u64 {
        self.events.iter().filter(|event| is(&event.what)).count() as u64
    }

    /// What is kept aside, by its keys.
    async fn aside(&self) -> Result<HashSet<String>, Wrong> {
        let objects = self.lake.list_objects(QUARANTINE_PREFIX).await?;
        Ok(objects.into_iter().map(|object| object.key).collect())
    }

    /// Posts all of them and returns the ids under which they were accepted.
    async fn post(&self) -> Result<HashSet<String>, Wrong> {
        let key = self.settings.webhook_key.as_deref().ok_or("the bundle has no source `wechat`")?;
        let (http, url) = (Client::new(), format!("{}/webhook/wechat", self.settings.http));
        let posts = self.events.iter().map(|event| async {
            let request = http.post(&url).header("x-webhook-key", key).body(event.body.clone());
            let answer: Value = request.send().await?.error_for_status()?.json().await?;
            let id = at(&answer, "request_id").as_str();
            Ok::<_, Wrong>(id.ok_or_else(|| format!("it is told {answer}"))?.to_owned())
        });
        stream::iter(posts).buffer_unordered(POSTS).try_collect().await
    }

    async fn arrives(&self, before: &HashSet<String>, posted: &HashSet<String>) -> Result<Found, Wrong> {
        let messages = self.count(|what| matches!(what, What::Message { .. }));
        let contacts = self.count(|what| matches!(what, What::Contact { .. }));
        let usernames: HashSet<&String> = self.usernames().collect();
        let malformed = self.count(|what| matches!(what, What::Malformed));
        within(READABLE, "not all of them are there", || async {
            tokio::time::sleep(GLANCE).await;
            let found = self.found().await?;
            if found.doubled > 0 || found.contacts > contacts {
                return Err("something is there twice".into());
            }
            let rows = found.messages.len() as u64 == messages && found.usernames.len() == usernames.len();
            let all = rows && self.kept(before, posted).await? == malformed;
            Ok(all.then_some(found))
        })
        .await
    }

    fn usernames(&self) -> impl Iterator<Item = &String> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Contact { username } => Some(username),
            _ => None,
        })
    }

    /// How many of the posted events are kept aside.
    async fn kept(&self, before: &HashSet<String>, posted: &HashSet<String>) -> Result<u64, Wrong> {
        let mut count = 0;
        for key in self.aside().await?.difference(before) {
            let kept: Option<Kept> = match self.lake.read_object(key).await? {
                Some(object) => serde_json::from_slice(&object).ok(),
                None => None,
            };
            count += u64::from(kept.is_some_and(|kept| posted.contains(&kept.intake.request_id)));
        }
        Ok(count)
    }

    /// The rows that the events became. Whoever else writes to the lake meanwhile is passed over.
    async fn found(&self) -> Result<Found, Wrong> {
        let ids: HashSet<&str> = self.msg_ids().collect();
        let usernames: HashSet<&str> = self.usernames().map(String::as_str).collect();
        let (day, since) = (self.day, Partition::of(self.begun));
        let mut found = Found::default();
        for kind in Kind::ALL {
            let here = move |of: Partition| if kind == Kind::Messages { of == day } else { Some(of) >= since };
            for file in self.lake.files(kind, here).await? {
                let mut own = false;
                let bytes = self.lake.read_file(kind, &file.path).await?;
                for rows in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                    let rows = rows?;
                    let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
                    let key = text(if kind == Kind::Messages { "msg_id" } else { "username" });
                    let received = rows.column_by_name("received_at");
                    let received = received.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
                    let (key, received) = key.zip(received).ok_or("a file lacks columns")?;
                    let named = key.iter().zip(received.iter()).zip(self.digester.digests(kind, &rows));
                    for ((key, received), digest) in named {
                        let (key, received) = (key.unwrap_or_default(), received.unwrap_or_default());
                        if kind == Kind::Messages && ids.contains(key) {
                            let doubled = found.messages.insert(digest.key, digest.says).is_some();
                            found.doubled += u64::from(doubled);
                            own = true;
                        } else if kind == Kind::Contacts
                            && usernames.contains(key)
                            && i128::from(received) * 1_000 >= self.begun.unix_timestamp_nanos()
                        {
                            found.usernames.insert(key.to_owned());
                            found.contacts += 1;
                            own = true;
                        }
                    }
                }
                if own {
                    found.files += u64::from(kind == Kind::Messages);
                    found.bytes += file.bytes;
                }
            }
        }
        Ok(found)
    }

    /// Has the day sealed as the hour would, and reads it again.
    async fn seal(&self) -> Result<Found, Wrong> {
        trigger(self.settings, "lake-maintain", Some("Seal")).await?;
        within(READABLE, "the day is not sealed", || async {
            tokio::time::sleep(GLANCE).await;
            let table = self.lake.stats(Kind::Messages).await?;
            Ok(table.days.iter().any(|day| day.partition == self.day && day.sealed).then_some(()))
        })
        .await?;
        self.found().await
    }
}

//! `skylark demo`: the whole story, step by step, each with its latency.

mod chat;
mod files;
mod lake;
mod lark;
mod people;

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use local::Settings;

use crate::args::Place;
use crate::demo::chat::ChatStory;
use crate::demo::files::FileStory;
use crate::demo::lake::LakeStory;
use crate::demo::lark::LarkStory;
use crate::fault::{CliFault, say};
use crate::local_run::{StartArgs, start};
use crate::stack::running;

/// How long a step may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Take function binaries from this folder instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// How many messages the two people send each other.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
}

/// Runs every step; the first that fails ends the demo with exit code 1.
pub(crate) async fn run(place: &Place, args: DemoArgs) -> Result<(), CliFault> {
    if let Ok(settings) = running(place) {
        say(format!("bundle at {}", settings.http));
        return story(&settings, args.messages, Time::Stays).await;
    }
    let folder = tempfile::tempdir().map_err(|cause| CliFault::storage("no temporary folder", cause))?;
    let place = Place { data: folder.path().to_owned(), stack: None };
    let begun = Instant::now();
    let bundle = start(&place, StartArgs::anywhere(args.binaries).quietly()).await?;
    say(format!("started a bundle of its own at {} in {:.1} s", bundle.settings().http, begun.elapsed().as_secs_f64()));
    let result = story(bundle.settings(), args.messages, Time::Moves).await;
    bundle.shutdown().await;
    result
}

/// Whether the demo may move the bundle's time: not that of a bundle that somebody works with.
#[derive(Clone, Copy, PartialEq)]
enum Time {
    Stays,
    Moves,
}

async fn story(settings: &Settings, messages: u64, time: Time) -> Result<(), CliFault> {
    let lark = settings.lark.as_ref();
    let lark = lark.ok_or_else(|| CliFault::Argument("the demo needs a bundle with a Lark sandbox".to_owned()))?;
    let begun = Instant::now();
    let people = LarkStory::new(settings, lark).await?;
    people.authorize().await?;
    people.decline().await?;
    people.repeat_an_event().await?;
    let chat = ChatStory::begin(settings).await?;
    chat.talk(messages).await?;
    let files = FileStory { sender: &chat.ann, reader: &chat.bob, conversation: &chat.conversation };
    files.tell().await?;
    chat.end().await?;
    LakeStory::begin(settings).await?.tell().await?;
    match time {
        Time::Moves => people.live_through_a_year().await?,
        Time::Stays => say("\nA year in the life of a token: shown by a demo that starts a bundle of its own"),
    }
    say(format!("all steps passed in {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// What went wrong in a step.
type Wrong = Box<dyn std::error::Error + Send + Sync>;

/// Runs a step and prints how it went and how long it took.
async fn step<T>(title: impl Display, work: impl Future<Output = Result<T, Wrong>>) -> Result<T, CliFault> {
    let begun = Instant::now();
    let result = work.await;
    let millis = begun.elapsed().as_secs_f64() * 1000.0;
    match result {
        Ok(value) => {
            say(format!("  ok    {millis:>8.1} ms  {title}"));
            Ok(value)
        }
        Err(wrong) => {
            say(format!("  FAIL  {millis:>8.1} ms  {title}: {wrong}"));
            Err(CliFault::Failed("the demo failed".to_owned()))
        }
    }
}

/// Says more about the step before.
fn note(text: impl Display) {
    say(format!("{:21}{text}", ""));
}

/// Asks again until there is an answer.
async fn until<T, F, Fut>(problem: &str, ask: F) -> Result<T, Wrong>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Option<T>, Wrong>>,
{
    within(PATIENCE, problem, ask).await
}

async fn within<T, F, Fut>(patience: Duration, problem: &str, ask: F) -> Result<T, Wrong>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Option<T>, Wrong>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match ask().await? {
            Some(value) => return Ok(value),
            None if Instant::now() > deadline => return Err(problem.into()),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

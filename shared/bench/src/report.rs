//! What is printed: one line for each function, then the budgets.

use std::fmt;
use std::time::Duration;

const MEGABYTE: f64 = 1_000_000.0;

/// Init may take this many times that of the hello-world.
const INIT_RATIO: f64 = 2.0;

/// The memory a function may hold after its events, and one that holds the lake's tables.
const MEMORY_BYTES: f64 = 40.0 * MEGABYTE;
const LAKE_MEMORY_BYTES: f64 = 200.0 * MEGABYTE;

/// What a function may weigh, zipped, and one that holds the lake's tables.
const ZIP_BYTES: f64 = 5.0 * MEGABYTE;
const LAKE_ZIP_BYTES: f64 = 15.0 * MEGABYTE;

/// The requests to AWS that one card click may cost; looking its app up again, every ten seconds, hardly shows.
const CLICK_REQUESTS: f64 = 2.01;

/// The time from handing a card click over to its answer that 99 of 100 keep.
const CLICK_P99_MS: f64 = 10.0;

/// The requests to AWS that one webhook may cost; looking its source up again, every ten seconds, hardly shows.
const WEBHOOK_REQUESTS: f64 = 1.01;

/// The function that webhooks go to.
const POSTED_TO: &str = "webhook-intake";

/// The function that clicks go to.
const CLICKED: &str = "lark-callback";

/// Sorted values.
#[derive(Debug)]
pub(crate) struct Spread<T>(Vec<T>);

impl<T: Ord + Copy + Default> Spread<T> {
    pub(crate) fn of(mut values: Vec<T>) -> Self {
        values.sort_unstable();
        Self(values)
    }

    /// The smallest value that `percent` of the values do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> T {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> T {
        self.percentile(50)
    }
}

/// What was measured of one binary.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) name: String,
    pub(crate) init: Spread<Duration>,
    pub(crate) init_cpu: Spread<Duration>,
    pub(crate) memory_at_init: Spread<u64>,
    pub(crate) memory_after: u64,
    pub(crate) handler: Spread<Duration>,
    pub(crate) requests_per_event: f64,
    pub(crate) binary_bytes: u64,
    pub(crate) zip_bytes: u64,
}

impl Figures {
    /// Whether it reads or writes the lake's tables, which is most of such a function.
    fn holds_tables(&self) -> bool {
        self.name.starts_with("lake-")
    }
}

/// One budget and the function that comes closest to it, or furthest past it.
struct Budget<'a> {
    what: &'static str,
    worst: Option<(&'a str, f64)>,
    limit: f64,
    unit: &'static str,
}

impl Budget<'_> {
    fn holds(&self) -> bool {
        self.worst.is_none_or(|(_, value)| value <= self.limit)
    }
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// The hello-world first.
    figures: Vec<Figures>,
    runs: u32,
    events: u32,
}

impl Report {
    pub(crate) fn new(figures: Vec<Figures>, runs: u32, events: u32) -> Self {
        Self { figures, runs, events }
    }

    /// Whether every function is within every budget.
    pub(crate) fn holds(&self) -> bool {
        self.budgets().iter().all(Budget::holds)
    }

    fn budgets(&self) -> [Budget<'_>; 8] {
        let budget = |what, whose: &dyn Fn(&Figures) -> bool, limit, unit, value: &dyn Fn(&Figures) -> f64| {
            let functions = self.figures.iter().skip(1).filter(|one| whose(one));
            let values = functions.map(|one| (one.name.as_str(), value(one)));
            Budget { what, worst: values.max_by(|a, b| a.1.total_cmp(&b.1)), limit, unit }
        };
        let (all, lake, others) = (|_: &Figures| true, Figures::holds_tables, |one: &Figures| !one.holds_tables());
        let memory = |one: &Figures| megabytes(one.memory_after);
        let zip = |one: &Figures| megabytes(one.zip_bytes);
        [
            budget("init against hello-world", &all, INIT_RATIO, "x", &|one| self.init_ratio(one)),
            budget("memory after the events", &others, MEMORY_BYTES / MEGABYTE, " MB", &memory),
            budget("memory after the events, lake", &lake, LAKE_MEMORY_BYTES / MEGABYTE, " MB", &memory),
            budget("zipped bootstrap", &others, ZIP_BYTES / MEGABYTE, " MB", &zip),
            budget("zipped bootstrap, lake", &lake, LAKE_ZIP_BYTES / MEGABYTE, " MB", &zip),
            self.of(CLICKED, "AWS requests for a card click", CLICK_REQUESTS, "", |one| one.requests_per_event),
            self.of(CLICKED, "p99 of a card click", CLICK_P99_MS, " ms", |one| {
                milliseconds(one.handler.percentile(99))
            }),
            self.of(POSTED_TO, "AWS requests for a webhook", WEBHOOK_REQUESTS, "", |one| one.requests_per_event),
        ]
    }

    fn of(
        &self,
        function: &str,
        what: &'static str,
        limit: f64,
        unit: &'static str,
        value: impl Fn(&Figures) -> f64,
    ) -> Budget<'_> {
        let measured = self.figures.iter().find(|one| one.name == function);
        Budget { what, worst: measured.map(|one| (one.name.as_str(), value(one))), limit, unit }
    }

    /// Of the quickest starts: what else the machine does only adds to a start, and so hides the ratio of the others.
    fn init_ratio(&self, one: &Figures) -> f64 {
        let quickest = |one: &Figures| milliseconds(one.init.percentile(0));
        quickest(one) / self.figures.first().map_or(1.0, quickest)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} starts in turns; {} events each, with AWS's answers canned; times are seen from the Runtime API;\n\
             the ratio is that of the quickest starts\n",
            self.runs, self.events
        )?;
        writeln!(
            f,
            "{:<16}{:>9}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}{:>11}{:>11}{:>8}{:>10}{:>8}",
            "function",
            "init ms",
            "min",
            "max",
            "ratio",
            "cpu ms",
            "init MB",
            "after MB",
            "p50 us",
            "p99 us",
            "calls",
            "binary MB",
            "zip MB"
        )?;
        for one in &self.figures {
            writeln!(
                f,
                "{:<16}{:>9.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>10.1}{:>10.1}{:>11.0}{:>11.0}{:>8.2}{:>10.2}{:>8.2}",
                one.name,
                milliseconds(one.init.median()),
                milliseconds(one.init.percentile(0)),
                milliseconds(one.init.percentile(100)),
                self.init_ratio(one),
                milliseconds(one.init_cpu.median()),
                megabytes(one.memory_at_init.median()),
                megabytes(one.memory_after),
                milliseconds(one.handler.percentile(50)) * 1_000.0,
                milliseconds(one.handler.percentile(99)) * 1_000.0,
                one.requests_per_event,
                megabytes(one.binary_bytes),
                megabytes(one.zip_bytes),
            )?;
        }
        for budget in self.budgets() {
            let verdict = if budget.holds() { "holds" } else { "DOES NOT HOLD" };
            write!(f, "\n{}: at most {}{}: {verdict}", budget.what, budget.limit, budget.unit)?;
            if let Some((name, value)) = budget.worst {
                write!(f, " (`{name}`: {value:.2}{})", budget.unit)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &str, init_ms: u64, memory: u64, zip: u64) -> Figures {
        Figures {
            name: name.to_owned(),
            init: Spread::of(vec![Duration::from_millis(init_ms)]),
            init_cpu: Spread::of(vec![Duration::from_millis(1)]),
            memory_at_init: Spread::of(vec![1]),
            memory_after: memory,
            handler: Spread::of(vec![Duration::from_micros(30)]),
            requests_per_event: 2.0,
            binary_bytes: 1,
            zip_bytes: zip,
        }
    }

    #[test]
    fn one_function_past_one_budget_is_enough() {
        let within = || figures("a", 20, 39_000_000, 4_900_000);
        for (one, holds) in [
            (within(), true),
            (figures("b", 21, 39_000_000, 4_900_000), false),
            (figures("b", 20, 41_000_000, 4_900_000), false),
            (figures("b", 20, 39_000_000, 5_100_000), false),
            (figures("lake-a", 20, 199_000_000, 14_900_000), true),
            (figures("lake-a", 20, 201_000_000, 14_900_000), false),
            (figures("lake-a", 20, 199_000_000, 15_100_000), false),
            (Figures { requests_per_event: 3.0, ..figures("b", 20, 39_000_000, 4_900_000) }, true),
            (Figures { requests_per_event: 3.0, ..figures(CLICKED, 20, 39_000_000, 4_900_000) }, false),
            (Figures { requests_per_event: 1.0, ..figures(POSTED_TO, 20, 39_000_000, 4_900_000) }, true),
            (figures(POSTED_TO, 20, 39_000_000, 4_900_000), false),
        ] {
            let report = Report::new(vec![figures("hello", 10, 90_000_000, 9_000_000), within(), one], 1, 1);
            assert_eq!(report.holds(), holds, "{report}");
        }
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let spread = Spread::of((1..=100).rev().collect::<Vec<u64>>());
        assert_eq!([0, 50, 99, 100].map(|percent| spread.percentile(percent)), [1, 50, 99, 100]);
        assert_eq!(Spread::<u64>::of(Vec::new()).median(), 0);
    }
}
